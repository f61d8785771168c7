"""The models behind the proxy: what they take, where they are served, how they are asked."""
