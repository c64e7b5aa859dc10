"""Answer requests for pages from the cache or the vendor."""
