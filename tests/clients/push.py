"""Pushes with redis-py, and checks every answer. Arguments and output as in push.php."""

import json
import sys

import redis

host, port, password, kind = sys.argv[1:5]


def check(right, what):
    if not right:
        sys.exit(f"push.py: {what}")


def heard(room, data):
    print(f"{room}\t{json.dumps(data, ensure_ascii=False, separators=(',', ':'))}")


for protocol in (2, 3):
    client = redis.Redis(host=host, port=int(port), password=password or None, protocol=protocol, socket_timeout=10)
    check(client.ping(), "PING is answered")
    check(client.lpush("message_queue", json.dumps({"content": f"py {protocol}"})) >= 1, "LPUSH answers with a length")
    heard("lobby", f"py {protocol}")
    with client.pipeline(transaction=True) as pipeline:
        pipeline.lpush("message_queue", '"one"')
        pipeline.lpush("message_queue", '"two"', '"three"')
        answers = pipeline.execute()
    check(len(answers) == 2, f"a transaction has two answers: {answers}")
    with client.pipeline(transaction=False) as pipeline:
        for number in range(500):
            pipeline.lpush("message_queue", json.dumps({"content": number}))
        check(len(pipeline.execute()) == 500, "a pipeline has 500 answers")
    for data in ["one", "two", "three", *range(500)]:
        heard("lobby", data)

    if kind == "door":
        check(client.publish("news", '{"content":"py"}') == 1, "PUBLISH answers 1")
        heard("news", "py")
        entry = client.xadd("message_queue", {"room": "orders", "content": "fields"})
        check(b"-" in entry, f"XADD answers with an id: {entry}")
        heard("orders", "fields")
        check(client.client_id() > 0, "CLIENT ID is a number")
        check(client.info()["loading"] == 0, "INFO says that nothing is loading")
        try:
            client.lpush("message_queue", "no json")
            check(False, "what is no JSON is refused")
        except redis.ResponseError as error:
            check("not-json" in str(error), f"the error says why: {error}")
    client.close()

if kind == "door":
    cluster = redis.RedisCluster(host=host, port=int(port), password=password or None)
    check(cluster.lpush("message_queue", '"by cluster"') == 1, "RedisCluster pushes")
    heard("lobby", "by cluster")
    if password:
        try:
            redis.Redis(host=host, port=int(port), password="wrong").ping()
            check(False, "a wrong password is refused")
        except redis.AuthenticationError as error:
            check("invalid username-password pair" in str(error), f"the error is redis's own: {error}")
        try:
            redis.Redis(host=host, port=int(port)).ping()
            check(False, "no password is refused")
        except redis.AuthenticationError:
            pass
