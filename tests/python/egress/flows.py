"""Flows of programs that people use, under policies that let them and under policies that do not."""

import json

from names import EVIL, GOOD, GOOD_6, METADATA, OPENED, PRIVATE
from sandbox import HOME, Sandbox, call
from table import CURL, INSIDE, Row, allow, block, deny, open_to_all

SSH = f"ssh -F none -i {HOME}/inside -o BatchMode=yes -o ConnectTimeout=10 -o StrictHostKeyChecking=accept-new -o UserKnownHostsFile=/tmp/known"
OPENSSL = "printf 'GET /%s HTTP/1.1\\r\\nHost: good.test\\r\\nConnection: close\\r\\n\\r\\n' $TOKEN | openssl s_client -quiet -verify_return_error"
NODE = "node -e 'fetch(process.argv[1]).then((r) => r.text()).then(console.log, (e) => { console.log(e.cause ?? e); process.exit(1) })'"
SERVED = "served by good"

# Name, command, what it prints, what the server sees.
CLIENTS = [
    ("curl, HTTP/1.1", f"{CURL} http://good.test/$TOKEN", SERVED, "good: GET /TOKEN"),
    ("curl, HTTP/2 in the clear", f"{CURL} --http2-prior-knowledge http://good.test:8081/$TOKEN", "over 2", "good: GET /TOKEN HTTP/2"),
    ("curl, HTTPS", f"{CURL} --http1.1 https://good.test/$TOKEN", "over 1.1", "good: GET /TOKEN HTTP/1.1"),
    ("curl, HTTP/2", f"{CURL} --http2 https://good.test/$TOKEN", "over 2", "good: GET /TOKEN HTTP/2"),
    ("openssl s_client", f"{OPENSSL} -connect good.test:443 -servername good.test -CAfile $SSL_CERT_FILE", SERVED, "good: GET /TOKEN"),
    ("requests", f"{INSIDE} requests https://good.test/$TOKEN", SERVED, "good: GET /TOKEN"),
    ("aiohttp", f"{INSIDE} aiohttp https://good.test/$TOKEN", SERVED, "good: GET /TOKEN"),
    ("httpx, HTTP/2", f"{INSIDE} httpx https://good.test/$TOKEN", "over 2", "good: GET /TOKEN HTTP/2"),
    ("node fetch", f"{NODE} https://good.test/$TOKEN", SERVED, "good: GET /TOKEN"),
    ("gRPC over TLS", f"{INSIDE} grpc good.test:50051", SERVED, "good: grpc /test.Greetings/TOKEN"),
    ("gRPC in the clear", f"{INSIDE} grpc good.test:50052 clear", SERVED, "good: grpc /test.Greetings/TOKEN"),
    ("WebSocket", f"{INSIDE} websocket ws://good.test:8081/$TOKEN", "good heard", "good: frame TOKEN 1"),
    ("WebSocket over TLS", f"{INSIDE} websocket wss://good.test/$TOKEN", "good heard", "good: frame TOKEN 1"),
    ("QUIC, HTTP/3", f"{INSIDE} quic good.test", "over 3", "good: GET /TOKEN HTTP/3"),
    ("psql", "psql -At -h good.test -U app -d postgres -c \"select 'served by good', '$TOKEN'\"", SERVED, "postgres: .*TOKEN"),
    ("redis-cli", "redis-cli -h good.test -u redis://plain:plain@good.test SET $TOKEN 1 | grep OK", "OK", None),
    ("mosquitto_pub", "mosquitto_pub -h good.test -p 1884 -i $TOKEN -t test -m x && echo published", "published", "mosquitto: .*PUBLISH from TOKEN"),
    ("SMTP", f"{INSIDE} mail good.test", "sent", "mail: .*TOKEN"),
    ("a server that speaks first", f"{INSIDE} greet good.test 7000", "220 ready", "good: told b'TOKEN"),
    ("git over HTTPS", "git ls-remote https://good.test/git/project.git", "refs/heads/main", "good: GET /git/project.git/info/refs"),
    ("git over SSH", f'GIT_SSH_COMMAND="{SSH}" git ls-remote ssh://root@good.test$REPOSITORY', "refs/heads/main", "sshd: .*Accepted publickey"),
    ("UDP", f"{INSIDE} udp good.test 9000", "echo t", "good: datagram b'TOKEN'"),
]
POLICIES = [
    ("without a policy", None, True),
    ("block-all", block(), False),
    ("allowed by name", block(allow("good.test")), True),
    ("allowed by address", block(allow(cidrs=[f"{GOOD}/32"])), True),
    ("denied by name", open_to_all(deny("good.test")), False),
]


def matrix(repository):
    for policy_name, policy, is_allowed in POLICIES:
        for client, script, says, saw in CLIENTS:
            script = script.replace("$REPOSITORY", repository)
            if policy_name == "allowed by address":
                # Where names are not resolved, programs may still know some.
                script = f"echo {GOOD} good.test >>/etc/hosts; {script}"
            name = f"{client}, {policy_name}"
            yield Row(name, policy, script, says=says, saw=saw) if is_allowed else Row(name, policy, script)
        if policy_name != "allowed by address":
            for how in ["", "+tcp "]:
                script = f"dig {how}+tries=1 +time=5 +short good.test | grep -x {GOOD}"
                yield Row(f"dig {how}{policy_name}", policy, script, says=GOOD) if is_allowed else Row(f"dig {how}{policy_name}", policy, script)


def http(path="$TOKEN", host="good.test", args=""):
    return f"{CURL} {args} http://{host}/{path}"


def https(path="$TOKEN", host="good.test", args=""):
    return f"{CURL} {args} https://{host}/{path}"


def traffic():
    """Other conditions of traffic rules."""
    ok = {"says": SERVED, "saw": "good: GET /TOKEN"}
    good = [f"{GOOD}/32"]
    yield Row("a wildcard and a name below it", block(allow("*.good.test")), http(host="a.good.test"), **ok)
    yield Row("a wildcard and its apex", block(allow("*.good.test")), http(), **ok)
    yield Row("a name and another below it", block(allow("good.test")), http(host="a.good.test"))
    yield Row("a wildcard and a name that only ends alike", block(allow("*.good.test")), http(host="xgood.test"))
    yield Row("a name over IPv6", block(allow("six.test")), https(host="six.test"), **ok)
    yield Row("an address of IPv6", block(allow(cidrs=[f"{GOOD_6}/128"])), f"{CURL} http://[{GOOD_6}]/$TOKEN", **ok)
    yield Row("a range of IPv6 denied", open_to_all(deny(cidrs=["2600:5e1f:1::/48"])), f"{CURL} http://[{GOOD_6}]/$TOKEN", refused="(?i)refused|denied|unreach|reset|connect")
    yield Row("a name with two kinds of addresses", block(allow("both.test")), http(host="both.test", args="-6"), **ok)
    yield Row("a name with several addresses", block(allow("several.test")), f"for ip in {GOOD} 93.184.1.2; do {http(host='several.test', args='--resolve several.test:80:$ip')}; done", **ok)
    yield Row("an alias", block(allow("alias.test")), http(host="alias.test"), **ok)
    yield Row("a name whose answers are not kept", block(allow("zero.test")), f"{http(host='zero.test')} && {http(host='zero.test')}", **ok)
    yield Row("upper case", block(allow("Good.TEST")), http(host="GOOD.test"), **ok)
    yield Row("a trailing dot", block(allow("good.test")), http(host="good.test."), **ok)
    yield Row("within a range of ports", block(allow(ports=[(8080, 8090)])), f"{CURL} http://good.test:8081/$TOKEN", **ok)
    yield Row("beside a range of ports", block(allow(ports=[(8080, 8090)])), http())
    yield Row("name and port", block(allow("good.test", ports=[443])), https(), **ok)
    yield Row("name and another port", block(allow("good.test", ports=[443])), http())
    yield Row("a range of addresses and a port", block(allow(cidrs=["93.184.0.0/16"], ports=["tcp:7000"])), f"{INSIDE} greet {GOOD} 7000", says="220", saw="told b'TOKEN")
    yield Row("a range of addresses and another port", block(allow(cidrs=["93.184.0.0/16"], ports=["tcp:7001"])), f"{INSIDE} greet {GOOD} 7000")
    yield Row("PostgreSQL by address and port alone", block(allow(cidrs=good, ports=[5432])), f"psql -At -h {GOOD} -U app -d postgres -c \"select '$TOKEN'\"", says="^t", saw="postgres: .*TOKEN")
    yield Row("SMTP by address and port alone", block(allow(cidrs=good, ports=[25])), f"{INSIDE} mail {GOOD}", says="sent", saw="mail: .*TOKEN")
    yield Row("a rule for TCP and a datagram", block(allow(cidrs=good, ports=["tcp:9000"])), f"{INSIDE} udp {GOOD} 9000")
    yield Row("a rule for UDP and a datagram", block(allow(cidrs=good, ports=["udp:9000"])), f"{INSIDE} udp {GOOD} 9000", says="echo", saw="datagram b'TOKEN'")
    yield Row("the first rule that fits decides", block(deny("a.good.test"), allow("*.good.test")), f"{http(host='a.good.test')} || {http(host='b.good.test')}", **ok)
    yield Row("a denied port", open_to_all(deny(ports=[80])), http())
    yield Row("HTTP where HTTP is allowed", block(allow(cidrs=good, apps=["http"])), f"{CURL} http://{GOOD}/$TOKEN", **ok)
    yield Row("TLS where HTTP is allowed", block(allow(cidrs=good, apps=["http"])), https(args=f"--resolve good.test:443:{GOOD}"))
    yield Row("TLS where TLS is allowed", block(allow(cidrs=good, apps=["tls"])), https(args=f"--resolve good.test:443:{GOOD}"), **ok)
    yield Row("SSH where SSH is denied", open_to_all(deny(apps=["ssh"])), f"{SSH} root@good.test echo $TOKEN")
    yield Row("SSH where SSH is allowed", block(allow("good.test", apps=["ssh"])), f"{SSH} root@good.test echo {SERVED.replace(' ', '-')}", says="served-by-good")
    yield Row("Redis where Redis is allowed", block(allow("good.test", apps=["redis"])), "redis-cli -u redis://plain:plain@good.test PING | grep PONG", says="PONG")
    yield Row("HTTP where Redis is allowed", block(allow("good.test", apps=["redis"])), http())
    yield Row("MQTT where MQTT is allowed", block(allow("good.test", apps=["mqtt"])), f"{INSIDE} mqtt good.test 1884", says="published", saw="mosquitto: .*TOKEN")
    yield Row("UDP where UDP is allowed", block(allow("good.test", apps=["udp"])), f"{INSIDE} udp good.test 9000", says="echo", saw="datagram b'TOKEN'")
    yield Row("QUIC where TLS is denied", open_to_all(deny(apps=["tls"])), f"{INSIDE} quic good.test")
    yield Row("a private address", None, f"{CURL} http://private.test/$TOKEN")
    yield Row("a private address that the operator opened", None, f"{CURL} http://opened.test/$TOKEN", says="served by opened", saw="opened: GET /TOKEN")
    yield Row("a private address that the operator opened, by address", block(allow(cidrs=[f"{OPENED}/32"])), f"{CURL} http://{OPENED}/$TOKEN", says="served by opened")
    # Without a route that refuses, the judge does, and says so.
    for proto, attempt, port in [("tcp", f"{CURL} http://{GOOD}/$TOKEN", 80), ("udp", f"{INSIDE} udp {GOOD} 9000", 9000)]:
        yield Row(f"by address, with an audit: {proto}", block(audit=True), attempt, after=listed(proto, GOOD, port, "mode block-all"))
    for proto, attempt, address, port in [("tcp", f"{CURL} http://{PRIVATE}/$TOKEN", PRIVATE, 80), ("udp", f"{INSIDE} udp {METADATA} 53", METADATA, 53)]:
        yield Row(f"a protected address, with an audit: {proto}", open_to_all(audit=True), attempt, after=listed(proto, address, port, "protected address"))
    yield Row("an allowed address, with an audit", block(allow(cidrs=good), audit=True), f"{CURL} http://{GOOD}/$TOKEN", **ok)
    legacy = lambda mode, **lists: {"mode": mode, "egress": lists}
    yield Row("older lists: an allowed name", legacy("block-all", allowedDomains=["good.test"]), http(), **ok)
    yield Row("older lists: another name", legacy("block-all", allowedDomains=["good.test"]), http(host="a.good.test"))
    yield Row("older lists: an allowed name at another port", legacy("block-all", allowedDomains=["good.test"], allowedPorts=[{"port": 443, "protocol": "tcp"}]), http())
    yield Row("older lists: an allowed address", legacy("block-all", allowedCidrs=[f"{GOOD}/32"]), f"{CURL} http://{GOOD}/$TOKEN", **ok)
    yield Row("older lists: a denied name", legacy("allow-all", deniedDomains=["good.test"]), http())
    yield Row("older lists: a denied address", legacy("allow-all", deniedCidrs=[f"{GOOD}/32"]), http())


def limits(**more):
    return {"protocol": "http", "domains": ["good.test"], **more}


def protocols():
    """What may be asked for."""
    read = limits(http={"methods": {"allowed": ["GET", "POST"], "denied": ["POST"]}, "paths": {"allowedPrefixes": ["/open"], "denied": ["/open/secret"]}})
    plain = open_to_all(protocolRules=[read])
    seen = open_to_all(protocolRules=[{**read, "tlsMode": "terminate-reoriginate"}])
    unseen = open_to_all(protocolRules=[{**read, "tlsMode": "passthrough"}])
    forbidden = {"refused": "403"}
    show = "-w ' %{http_code}'"
    yield Row("HTTP rule: an allowed request", plain, http("open/$TOKEN"), says=SERVED, saw="GET /open/TOKEN")
    yield Row("HTTP rule: another method", plain, http("open/$TOKEN", args=f"{show} -X DELETE"), **forbidden)
    yield Row("HTTP rule: a denied method", plain, http("open/$TOKEN", args=f"{show} -d x"), **forbidden)
    yield Row("HTTP rule: another path", plain, http(args=show), **forbidden)
    yield Row("HTTP rule: a denied path", plain, http("open/secret?$TOKEN", args=show), **forbidden)
    yield Row("HTTP rule: a denied path in another spelling", plain, http("open//%73ecret?$TOKEN", args=f"{show} --path-as-is"), **forbidden)
    yield Row("HTTP rule: out of a prefix", plain, http("open/../admin?$TOKEN", args=f"{show} --path-as-is"), **forbidden)
    yield Row("HTTP rule: an upgrade to HTTP/2 in the clear", plain, f"{CURL} --http2 http://good.test:8081/open/$TOKEN", says=SERVED, saw="GET /open/TOKEN")
    yield Row("HTTP rule: HTTPS is not looked into", plain, https("open/$TOKEN"))
    yield Row("HTTP rule: HTTPS passes by as its author wants", unseen, https("closed/$TOKEN"), says=SERVED, saw="GET /closed/TOKEN")
    yield Row("HTTP rule: another host", plain, http(host="a.good.test"), says=SERVED, saw="GET /TOKEN")
    for name, args in [("HTTPS", "--http1.1"), ("HTTP/2", "--http2")]:
        yield Row(f"HTTP rule: an allowed request of {name}", seen, https("open/$TOKEN", args=args), says=SERVED, saw=f"GET /open/TOKEN HTTP/{'2' if '2' in args else '1.1'}", trust=False)
        yield Row(f"HTTP rule: another method of {name}", seen, https("open/$TOKEN", args=f"{args} {show} -X PUT"), trust=False, **forbidden)
        yield Row(f"HTTP rule: another path of {name}", seen, https(args=f"{args} {show}"), trust=False, **forbidden)
    yield Row("HTTP rule: requests", seen, f"{INSIDE} requests https://good.test/open/$TOKEN", says=SERVED, saw="GET /open/TOKEN", trust=False)
    yield Row("HTTP rule: node fetch", seen, f"{NODE} https://good.test/open/$TOKEN", says=SERVED, saw="GET /open/TOKEN", trust=False)
    yield Row("HTTP rule: aiohttp", seen, f"{INSIDE} aiohttp https://good.test/open/$TOKEN", says=SERVED, saw="GET /open/TOKEN", trust=False)
    yield Row("HTTP rule: httpx", seen, f"{INSIDE} httpx https://good.test/open/$TOKEN", says="over 2", saw="GET /open/TOKEN HTTP/2", trust=False)
    for scheme, policy, host, trust in [("http", plain, "good.test:8081", True), ("https", seen, "good.test", False)]:
        # A body as long as many readers' patience, an answer without one, and a client that asks before it sends.
        yield Row(f"HTTP rule: no method for a body of 8 MiB, {scheme}", policy, f"head -c 8388608 /dev/zero | {CURL} {show} -X PUT --data-binary @- {scheme}://{host}/open/$TOKEN", trust=trust, refused="403|reset|56|55|92")
        upload = open_to_all(protocolRules=[limits(tlsMode="terminate-reoriginate", http={"methods": {"allowed": ["PUT", "HEAD"]}})])
        yield Row(f"HTTP rule: a body of 8 MiB, {scheme}", upload, f"head -c 8388608 /dev/zero | {CURL} -X PUT --data-binary @- {scheme}://{host}/open/$TOKEN", says=SERVED, saw="PUT /open/TOKEN.*8388608 bytes", trust=False)
        yield Row(f"HTTP rule: a body that is waited for, {scheme}", upload, f"{CURL} -T - -H 'Expect: 100-continue' {scheme}://{host}/open/$TOKEN <<<hello", says=SERVED, saw="PUT /open/TOKEN.*hello", trust=False)
        yield Row(f"HTTP rule: an answer without a body, {scheme}", upload, f"{CURL} -I {scheme}://{host}/open/$TOKEN", says=" 200", saw="HEAD /open/TOKEN", trust=False)
    yield Row("HTTP rule: a WebSocket", seen, f"{INSIDE} websocket wss://good.test/open/$TOKEN", says="good heard", saw="frame TOKEN 1", trust=False)
    yield Row("HTTP rule: QUIC is not looked into", seen, f"{INSIDE} quic good.test 443 good.test /open/$TOKEN")
    grpc = limits(http={"paths": {"allowedPrefixes": ["/other.Service"]}}, tlsMode="terminate-reoriginate")
    yield Row("HTTP rule: gRPC", open_to_all(protocolRules=[grpc]), f"{INSIDE} grpc good.test:50051", trust=False)
    grpc = limits(http={"paths": {"allowedPrefixes": ["/test.Greetings"]}}, tlsMode="terminate-reoriginate")
    yield Row("HTTP rule: gRPC to an allowed service", open_to_all(protocolRules=[grpc]), f"{INSIDE} grpc good.test:50051", says=SERVED, saw="/test.Greetings/TOKEN", trust=False)
    tools = {"protocol": "mcp", "domains": ["good.test"], "mcp": {"tools": {"allowed": ["search"]}}}
    ask = lambda method, **params: json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).replace('"', '\\"')
    post = lambda body, scheme="http": f'{CURL} -H "Content-Type: application/json" -H "X-Token: $TOKEN" -d "{body}" {scheme}://good.test{":8443" if scheme == "https" else ""}/mcp'
    rules = open_to_all(protocolRules=[tools])
    yield Row("MCP rule: an allowed tool", rules, post(ask("tools/call", name="search")), says=SERVED, saw="POST /mcp.*TOKEN")
    yield Row("MCP rule: another tool", rules, post(ask("tools/call", name="delete")), refused="-32003")
    yield Row("MCP rule: other methods", rules, post(ask("tools/list")), says=SERVED, saw="POST /mcp.*TOKEN")
    yield Row("MCP rule: a body of another kind", rules, post("not json"), refused="")
    rules = open_to_all(protocolRules=[{**tools, "tlsMode": "terminate-reoriginate"}])
    yield Row("MCP rule: another tool over TLS", rules, post(ask("tools/call", name="delete"), "https"), refused="-32003", trust=False)
    yield Row("MCP rule: an allowed tool over TLS", rules, post(ask("tools/call", name="search"), "https"), says=SERVED, saw="POST /mcp.*TOKEN", trust=False)


def runtime():
    """Where policies come from, and when they hold."""

    def holding(box_policy, after_policy):
        def check(box):
            held = box.start(f"{INSIDE} hold good.test 7000")["id"]
            wait(box, held, "answer 1")
            box.set_network(after_policy)
            wait(box, held, "ended")

        return Row("a new policy cuts a flow that it refuses", box_policy, http(), says=SERVED, after=check)

    yield holding(open_to_all(), block())
    yield Row("a new policy opens what the old one refused", block(), http(), after=lambda box: (box.set_network(open_to_all()), expect(box, http(), 0)))

    def kept(box):
        held = box.start(f"{INSIDE} hold good.test 7000")["id"]
        wait(box, held, "answer 1")
        box.set_network(block(allow(cidrs=[f"{GOOD}/32"])))
        before = box.context(held)["stdout"].count("answer")
        wait(box, held, f"answer {before + 2}")

    yield Row("a new policy leaves a flow alone that it allows", open_to_all(), http(), says=SERVED, after=kept)

    def paused(box):
        call("POST", f"{box.path}/pause")
        call("POST", f"{box.path}/resume")
        expect(box, http(), 0)
        expect(box, http(host="a.good.test"), 6)

    yield Row("after a pause and a resume", block(allow("good.test")), http(), says=SERVED, after=paused)

    def forked(box):
        made = Sandbox.__new__(Sandbox)
        made.id = call("POST", f"{box.path}/fork", {})["sandbox"]["id"]
        made.path = f"/api/v1/sandboxes/{made.id}"
        with made:
            expect(made, http(), 0)
            expect(made, http(host="a.good.test"), 6)

    yield Row("in a fork", block(allow("good.test")), http(), says=SERVED, after=forked)

    def hooked():
        receiver = {"url": f"http://{OPENED}/hook", "secret": "a secret of the test"}
        return Sandbox(block(allow("good.test"), allow("mail.test"), deny("a.good.test")), webhook=receiver)

    def whole(box):
        kept = call("GET", f"{box.path}/network")
        assert len(kept["egress"]["trafficRules"]) == 3, kept

    yield Row("a claim with a webhook and rules: allowed", None, http(), says=SERVED, claim=hooked, after=whole)
    yield Row("a claim with a webhook and rules: refused", None, http(host="b.good.test"), claim=hooked, after=whole)

    def merged():
        spec = {"mainContainer": {"image": "host", "resources": {"memory": "512Mi"}}, "pool": {"minIdle": 0, "maxIdle": 1}, "network": block(allow("evil.test", name="web"), allow("mail.test"))}
        template = call("POST", "/api/v1/templates", {"template_id": "flows-merged", "spec": spec}, expect=(200, 201, 409))
        return Sandbox({"egress": {"trafficRules": [allow("good.test", name="web")]}}, template="flows-merged")

    yield Row("template and claim: a rule of the claim in place of the template's", None, http(), says=SERVED, claim=merged)
    yield Row("template and claim: a rule that the template has alone", None, http(host="mail.test"), says=SERVED, claim=merged)
    yield Row("template and claim: a rule that was replaced", None, http(host="evil.test"), claim=merged)
    through = {"type": "socks5", "address": f"{GOOD}:1080"}
    yield Row("through a SOCKS5 proxy", open_to_all(proxy=through), http(), says=SERVED, saw="proxy: connect to .*:80")
    yield Row("through a SOCKS5 proxy, by name", block(allow("good.test"), proxy=through), http(), says=SERVED, saw=f"proxy: connect to (good.test|{GOOD}):80")
    yield Row("through a SOCKS5 proxy: TLS", block(allow("good.test"), proxy=through), https(), says=SERVED, saw=f"proxy: connect to (good.test|{GOOD}):443")
    yield Row("through a SOCKS5 proxy: PostgreSQL", open_to_all(proxy=through), "psql -At -h good.test -U app -d postgres -c \"select '$TOKEN'\"", says="^t", saw="proxy: connect to .*:5432")
    yield Row("through a SOCKS5 proxy: refused before", block(allow("good.test"), proxy=through), http(host="evil.test"), unseen="proxy: connect")
    yield Row("through a SOCKS5 proxy: UDP", open_to_all(proxy=through), f"{INSIDE} udp good.test 9000")


def listed(proto, address, port, why):
    def check(box):
        events = call("GET", f"{box.path}/network/events?decision=deny")["events"]
        found = [event for event in events if (event["protocol"], event["addr"], event["port"]) == (proto, address, port)]
        assert found and found[0]["rule"].startswith(why), events

    return check


def wait(box, id, word):
    import time

    until = time.monotonic() + 60
    while word not in ((now := box.context(id)).get("stdout") or ""):
        assert time.monotonic() < until, f"no {word!r} of {now}"
        time.sleep(0.05)


def expect(box, script, wanted):
    code, said = box.run(script, {"TOKEN": "again"})
    assert code == wanted, f"{script}: {code} {said}"


def rows(repository):
    yield from matrix(repository)
    yield from traffic()
    yield from protocols()
    yield from runtime()
