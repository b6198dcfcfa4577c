"""Reads one webhook per line as JSON ({secret, headers, body in base64}) and prints for each
`ok` or `refused: …`, as the Python library of Standard Webhooks finds."""

import base64
import json
import sys

from standardwebhooks import Webhook

for line in sys.stdin:
    webhook = json.loads(line)
    try:
        body = base64.b64decode(webhook["body"]).decode()
        Webhook(webhook["secret"]).verify(body, webhook["headers"])
        print("ok")
    except Exception as error:
        print(f"refused: {error!r}")
