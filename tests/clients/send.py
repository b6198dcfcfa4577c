"""Makes the six calls of calls.json with one client: python send.py <client> <host> <write key>"""

import json
import pathlib
import sys

client, host, write_key = sys.argv[1:]
calls = json.loads((pathlib.Path(__file__).parent / "calls.json").read_text())
errors = []

if client == "segment":
    import segment.analytics as analytics

    analytics.host = host
    analytics.gzip = True
else:
    import rudderstack.analytics as analytics

    analytics.dataPlaneUrl = host

analytics.write_key = write_key
analytics.max_retries = 6
analytics.on_error = lambda error, items: errors.append(error)

names = {"userId": "user_id", "groupId": "group_id", "previousId": "previous_id"}
for name, call in calls.items():
    getattr(analytics, name)(**{names.get(key, key): value for key, value in call.items()})
analytics.flush()
analytics.shutdown()
if errors:
    sys.exit(str(errors))
print("done")
