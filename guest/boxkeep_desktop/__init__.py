"""The browser of a sandbox: a display, Chromium on it, and the one door to Chromium's protocol."""
