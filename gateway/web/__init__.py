"""HTTP in: the only room, besides `app` and the stand-in vendor, that knows aiohttp.web."""
