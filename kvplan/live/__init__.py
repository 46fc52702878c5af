"""A running server: replay requests against it, read its metrics, hold a prediction against it. The only room that imports aiohttp."""
