"""Who draws responses: this process, or an inference server."""
