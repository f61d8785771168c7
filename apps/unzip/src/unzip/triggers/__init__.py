"""What starts the work of `unzip watch`: webhook, SQS, NATS and the periodic listing."""
