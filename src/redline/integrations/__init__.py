"""Token rewards inside other people's trainers: TRL (``trl``), and over HTTP whatever else (``server``)."""
