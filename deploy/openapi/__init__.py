"""The JSON API as an OpenAPI document, made from the contracts, and a page that shows it.

`document.document()` is the whole of it; nothing is written by hand twice: paths come from google.api.http, texts from
the comments, limits from buf.validate, errors from each package's ErrorReason.
"""
