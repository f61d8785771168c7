"""From a verified archive to files in S3 and the manifest that publishes them."""
