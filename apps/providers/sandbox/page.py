"""The inbox page: static files, read once."""

from pathlib import Path

from apps.providers.sandbox.exchange import Answer, html_answer

STATIC_DIR = Path(__file__).parent / "static"
# Styles must be allowed inline because the frame that shows a mail inherits this policy; scripts must not.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; frame-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_FILES = {
    "/": ("inbox.html", "text/html; charset=utf-8"),
    "/inbox.css": ("inbox.css", "text/css; charset=utf-8"),
    "/inbox.js": ("inbox.js", "text/javascript; charset=utf-8"),
    "/favicon.ico": ("icon.svg", "image/svg+xml"),
}


def _load(name: str, content_type: str) -> Answer:
    headers = (
        ("content-type", content_type),
        ("content-security-policy", POLICY),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cache-control", "no-cache"),
    )
    return Answer(200, headers, (STATIC_DIR / name).read_bytes())


_ANSWERS = {path: _load(name, content_type) for path, (name, content_type) in _FILES.items()}


def serve(path: str) -> Answer:
    """The page or one of its files; 404 for any other path."""
    return _ANSWERS.get(path) or html_answer(404, "Not found")
