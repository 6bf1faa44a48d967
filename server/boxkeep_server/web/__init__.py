"""The HTTP API: routes, authentication, error bodies, OpenAPI."""
