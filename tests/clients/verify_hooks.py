"""Checks signatures of hooks with the library of the Standard Webhooks specification's authors.

    verify_hooks.py SECRET < requests

One request a line: {"headers": {...}, "body": "..."}. A body with another byte must not be good.
"""

import json
import sys

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

webhook = Webhook(sys.argv[1])
good = 0
for line in sys.stdin:
    request = json.loads(line)
    told = webhook.verify(request["body"], request["headers"])
    assert told == json.loads(request["body"])
    try:
        webhook.verify(request["body"] + " ", request["headers"])
    except WebhookVerificationError:
        good += 1
    else:
        sys.exit("a changed body was found good")
print(f"{good} good, and none of them good with another byte")
