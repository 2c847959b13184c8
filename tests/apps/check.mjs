// Apps as people have them, see tests/apps.sh.

import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import dns from "node:dns";
import { cpSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join, resolve } from "node:path";
import { performance } from "node:perf_hooks";
import { fileURLToPath } from "node:url";

const { SANDBAR_URL: api, SANDBAR_TOKEN: token, SANDBAR_BIN, WORK: work, CLIENT: client, PROTOCOL: protocol, MIRROR: mirror } = process.env;
const sandbar = resolve(SANDBAR_BIN);
const parts = process.argv.slice(2);
const screenshots = process.env.SANDBAR_SCREENSHOTS;
const here = dirname(fileURLToPath(import.meta.url));
const { chromium } = createRequire(`${client}/`)("playwright-core");
const from = createRequire(`${protocol}/`);
const { Client } = from("@modelcontextprotocol/sdk/client/index.js");
const { StreamableHTTPClientTransport } = from("@modelcontextprotocol/sdk/client/streamableHttp.js");
const BUN = "1.4.5";
const SOON_MS = 60_000;
const PICTURE_MAX_BYTES = 150_000;

// Browsers know that names below localhost are this machine; not every resolver does.
const lookup = dns.lookup;
dns.lookup = (host, options, done) => lookup(host.endsWith(".localhost") ? "127.0.0.1" : host, options, done);

const env = { ...process.env, SANDBAR_URL: api, SANDBAR_TOKEN: token };
const attempt = (...args) => spawnSync(sandbar, args, { env, cwd: work, encoding: "utf8", maxBuffer: 64 << 20 });
const line = (...args) => {
  const { status, stdout, stderr } = attempt(...args);
  assert.equal(status, 0, `sandbar ${args.join(" ")}: ${status}\n${stdout}${stderr}`);
  return stdout.trim();
};
const refused = (says, ...args) => {
  const { status, stdout, stderr } = attempt(...args);
  assert.notEqual(status, 0, `sandbar ${args.join(" ")} was not refused: ${stdout}`);
  assert.match(`${stdout}${stderr}`, says);
};
/** Deploys a folder; returns the log of its build. */
const deployed = (folder) => {
  const { status, stdout, stderr } = attempt("app", "deploy", folder);
  assert.equal(status, 0, `${stdout}${stderr}`);
  return stderr;
};
const json = (...args) => JSON.parse(line("-o", "json", ...args));
const status = (app) => JSON.parse(attempt("-o", "json", "app", "status", app).stdout);
const sandbox = (app) => status(app).sandbox.id;
const open = (app, ...more) => line("app", "open", app, "--print", ...more);

let passed = 0;
const check = async (name, run) => {
  const begun = performance.now();
  const said = await run();
  passed += 1;
  console.log(`ok ${name} (${((performance.now() - begun) / 1000).toFixed(1)} s)${said ? `: ${said}` : ""}`);
};
const eventually = async (what, ask) => {
  const until = performance.now() + SOON_MS;
  for (;;) {
    const found = await ask();
    if (found) return found;
    assert.ok(performance.now() < until, `not within ${SOON_MS} ms: ${what}`);
    await new Promise((done) => setTimeout(done, 100));
  }
};

/** A folder with an app's source, and files on top of it. */
const source = (name, app, files = {}) => {
  const folder = join(work, name);
  rmSync(folder, { recursive: true, force: true });
  cpSync(join(here, app), folder, { recursive: true });
  for (const [path, text] of Object.entries(files)) {
    mkdirSync(dirname(join(folder, path)), { recursive: true });
    writeFileSync(join(folder, path), text);
  }
  return folder;
};
const yaml = (name) => readFileSync(join(here, "mission", name), "utf8");
const put = (text, id, path) => {
  writeFileSync(join(work, "edited"), text);
  line("sandbox", "cp", join(work, "edited"), `${id}:${path}`);
};
const picture = async (page, name) => {
  const path = join(screenshots ?? work, `${name}.png`);
  await page.screenshot({ path });
  const { size } = statSync(path);
  assert.ok(size > 5000 && size < PICTURE_MAX_BYTES, `${path} has ${size} bytes`);
  return `${name}.png has ${size} bytes`;
};

const flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync".split(" ");
const browser = await chromium.launch({ executablePath: "/usr/bin/chromium", args: flags });
const visitor = async () => (await browser.newContext({ viewport: { width: 920, height: 560 } })).newPage();

/** Nobody is let in without the link, or by a link that somebody has opened. */
const isPrivate = async (url) => {
  const stranger = await visitor();
  assert.equal((await stranger.goto(new URL("/", url).href)).status(), 404);
  assert.equal((await stranger.goto(url)).status(), 404);
  assert.match(await stranger.textContent("body"), /used before/);
  await stranger.context().close();
};

// Node and Python are this machine's own. What a sandbox installs for all its programs lies elsewhere than in /usr, which is the machine's.
const TEMPLATE = `template_id: mirrored
spec:
  mainContainer: { image: host, resources: { memory: 1Gi } }
  envVars:
    npm_config_registry: ${mirror}/npm/
    PIP_INDEX_URL: ${mirror}/pypi/simple/
    PIP_TRUSTED_HOST: ${new URL(mirror).hostname}
    PATH: /opt/node_modules/.bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
`;

const tides = async () => {
  const page = await visitor();
  let url;
  await check("tides: React and Vite, set up by npm ci", () => {
    const folder = source("tides", "tides");
    assert.match(line("app", "validate", folder), /is right/);
    const log = deployed(folder);
    assert.match(log, /added \d+ packages/);
    refused(/not online/, "app", "open", "tides", "--print");
    assert.match(deployed(folder), /used again/);
    return /added \d+ packages/.exec(log)[0];
  });
  await check("tides: ready, and seen by who has its link", async () => {
    line("app", "start", "tides");
    assert.deepEqual(status("tides").previews.map(({ port, access, state }) => [port, access, state]), [[5173, "private", "ready"]]);
    url = open("tides");
    await page.goto(url);
    await page.getByRole("heading", { name: "Tides at the sandbar" }).waitFor({ timeout: SOON_MS });
    await isPrivate(url);
    return picture(page, "app-tides");
  });
  await check("tides: an edited component is replaced, and the page's state stays", async () => {
    await page.getByRole("button", { name: "later" }).click();
    await page.getByRole("button", { name: "later" }).click();
    await page.evaluate(() => { window.mark = 7; });
    const begun = performance.now();
    put("export default function Banner() {\n  return <h1>Tides of the morning</h1>;\n}\n", sandbox("tides"), "/workspace/src/Banner.jsx");
    await page.getByRole("heading", { name: "Tides of the morning" }).waitFor({ timeout: SOON_MS });
    const took = performance.now() - begun;
    assert.equal(await page.getByTestId("day").textContent(), "Day 3");
    assert.equal(await page.evaluate(() => window.mark), 7, "it was reloaded");
    return `${took.toFixed(0)} ms after the command began`;
  });
  await check("tides: closed by a stop, and as it was after a start", async () => {
    const before = sandbox("tides");
    assert.match(line("app", "stop", "tides"), /paused/);
    assert.ok([401, 503].includes((await page.goto(new URL("/", url).href)).status()));
    await page.goto("about:blank");
    line("app", "start", "tides");
    assert.equal(sandbox("tides"), before);
    await page.goto(open("tides"));
    await page.getByRole("heading", { name: "Tides of the morning" }).waitFor({ timeout: SOON_MS });
  });
  await check("tides: built for production in a sandbox of its own", () => {
    const run = json("app", "run", "tides", "build", "--fresh");
    assert.equal(run.status, "succeeded", JSON.stringify(run));
    const fetched = line("app", "artifacts", run.id, "--dir", join(work, "built")).split("\n");
    const script = fetched.find((path) => path.endsWith(".js"));
    assert.match(readFileSync(join(work, "built/dist/index.html"), "utf8"), /assets\//);
    // What was edited in the app's sandbox is not the version's.
    assert.match(readFileSync(script, "utf8"), /Tides at the sandbar/);
    line("app", "rm", "tides");
    return `${fetched.length} artifacts`;
  });
};

const guestbook = async () => {
  const page = await visitor();
  const guests = (page) => page.locator("#guests b").allTextContents();
  const sign = async (page, name, said) => {
    await page.getByPlaceholder("Your name").fill(name);
    await page.getByPlaceholder("What you say").fill(said);
    await page.getByRole("button", { name: "Sign" }).click();
  };
  await check("guestbook: FastAPI, set up by pip", () => {
    deployed(source("guestbook", "guestbook"));
    line("app", "start", "guestbook");
    assert.equal(status("guestbook").state, "ready");
  });
  await check("guestbook: a form signs it, a WebSocket shows it to others", async () => {
    const url = open("guestbook");
    await page.goto(url);
    await page.getByText("Nobody was here yet").waitFor({ timeout: SOON_MS });
    await isPrivate(url);
    const watcher = await visitor();
    await watcher.goto(open("guestbook"));
    await watcher.locator("body.live").waitFor({ timeout: SOON_MS });
    await sign(page, "Ada", "The tide was out, so I walked in.");
    await watcher.getByText("Ada").waitFor({ timeout: SOON_MS });
    await page.locator("body.live").waitFor({ timeout: SOON_MS });
    await sign(watcher, "Grace", "Found a shell. It ran my script.");
    await page.getByText("Grace").waitFor({ timeout: SOON_MS });
    assert.deepEqual(await guests(page), ["Grace", "Ada"]);
    await watcher.context().close();
  });
  await check("guestbook: what it keeps outlives a stop", async () => {
    const log = line("app", "logs", "guestbook");
    assert.match(log, /Uvicorn running/);
    line("app", "stop", "guestbook");
    await page.goto("about:blank");
    line("app", "start", "guestbook");
    await page.goto(open("guestbook"));
    await page.getByText("Grace").waitFor({ timeout: SOON_MS });
    assert.deepEqual(await guests(page), ["Grace", "Ada"]);
  });
  await check("guestbook: an action sees what the app keeps", () => {
    const run = json("app", "run", "guestbook", "export");
    assert.equal(run.status, "succeeded", JSON.stringify(run));
    line("app", "artifacts", run.id, "--dir", join(work, "guests"));
    assert.equal(readFileSync(join(work, "guests/guests.csv"), "utf8"), 'name,said\r\nAda,"The tide was out, so I walked in."\r\nGrace,Found a shell. It ran my script.\r\n');
  });
  await check("guestbook: an action reads a file that it is given", async () => {
    writeFileSync(join(work, "more.csv"), "name,said\nMary,I mapped this shore.\n");
    assert.match(line("app", "run", "guestbook", "import", "--file", `guests=${join(work, "more.csv")}`), /^Mary$/m);
    await page.reload();
    assert.deepEqual(await guests(page), ["Mary", "Grace", "Ada"]);
    writeFileSync(join(work, "more.txt"), "");
    refused(/more\.txt of type text\/plain is none of \.csv, text\/csv/, "app", "run", "guestbook", "import", "--file", `guests=${join(work, "more.txt")}`);
    refused(/the app takes files as guests/, "app", "run", "guestbook", "import", "--file", `photos=${join(work, "more.csv")}`);
  });
  await check("guestbook: a client of the Model Context Protocol asks it", async () => {
    const [{ name, port, state, url: place }] = status("guestbook").mcp;
    assert.deepEqual([name, port, state], ["guests", 8000, "ready"]);
    const url = new URL(place);
    assert.equal(url.pathname, "/mcp");
    const stranger = await fetch(url, { method: "POST", body: "{}" });
    assert.equal(stranger.status, 404);
    // Opened by hand, as a browser would: the cookie is what lets one in.
    const opened = await fetch(open("guestbook", "--mcp", "guests"), { redirect: "manual" });
    assert.equal(new URL(opened.headers.get("location"), url).pathname, "/mcp");
    const cookie = opened.headers.getSetCookie().map((cookie) => cookie.split(";")[0]).join("; ");
    const client = new Client({ name: "test", version: "1" });
    await client.connect(new StreamableHTTPClientTransport(url, { requestInit: { headers: { cookie } } }));
    assert.deepEqual((await client.listTools()).tools.map(({ name }) => name), ["guests"]);
    const said = await client.callTool({ name: "guests", arguments: {} });
    assert.equal(said.content[0].text, "Mary, Grace, Ada");
    await client.close();
    return `${client.getServerVersion().name} at ${url.host}`;
  });
  await check("guestbook: as it looks", async () => {
    const said = await picture(page, "app-guestbook");
    line("app", "rm", "guestbook");
    return said;
  });
};

/** The examples that manifests have their shape from, to the letter. */
const mission = async () => {
  const [template, action, requiresStart] = ["template.yaml", "action.yaml", "requires-start.yaml"].map(yaml);
  const starts = template.slice(0, template.indexOf("actions:"));
  const deploy = (name, manifest, files = {}) => {
    const folder = source(name, "mission", { "sandbar.yaml": manifest, ...files });
    assert.match(line("app", "validate", folder), /is right/);
    deployed(folder);
  };
  const page = await visitor();
  let waiting;
  await check("the template: closed while its start command is not ready", async () => {
    deploy("harbour", template, { fog: "thick" });
    line("app", "start", "harbour", "--no-wait");
    await eventually("its first words", () => line("app", "logs", "harbour").includes("the harbour opens"));
    const { state, previews, services } = status("harbour");
    assert.deepEqual([state, previews.map(({ port, label, state }) => [port, label, state])], ["starting", [[3000, "web", "opening"]]]);
    assert.deepEqual(services.map(({ name, state }) => [name, state]), [["worker", "none"]], "services start when they are asked for");
    const reply = await page.goto(open("harbour"));
    assert.equal(reply.status(), 503);
    assert.match(await page.textContent("body"), /starting/);
  });
  await check("the template: smoke-test waits for the app", async () => {
    waiting = line("app", "run", "harbour", "smoke-test", "--no-wait");
    await eventually("it waits", () => json("app", "runs", "get", waiting).phase === "starting");
    assert.equal(status("harbour").state, "starting");
  });
  await check("the template: ready when it answers, and the page comes by itself", async () => {
    line("sandbox", "exec", sandbox("harbour"), "--", "rm", "/workspace/fog");
    await page.getByText("Albatross at berth 1").waitFor({ timeout: SOON_MS });
    assert.deepEqual([status("harbour").state, status("harbour").previews[0].state], ["ready", "ready"]);
    const run = await eventually("the end of the smoke test", () => {
      const run = json("app", "runs", "get", waiting);
      return run.finished_at && run;
    });
    const log = line("app", "runs", "logs", waiting);
    assert.equal(run.status, "succeeded", log);
    assert.match(log, /1 pass/);
    return /listening.*/.exec(line("app", "logs", "harbour"))[0];
  });
  await check("the template: generate-report leaves its artifact", () => {
    const run = json("app", "run", "harbour", "generate-report");
    assert.deepEqual([run.status, run.artifacts.map(({ path, status }) => [path, status])], ["succeeded", [["artifacts/report.json", "captured"]]]);
    line("app", "artifacts", run.id, "--dir", join(work, "report"));
    assert.deepEqual(JSON.parse(readFileSync(join(work, "report/artifacts/report.json"), "utf8")), { bun: BUN, ships: 3, tonnes: 6970 });
    // An action needs no app that runs.
    line("app", "stop", "harbour");
    const alone = json("app", "run", "harbour", "generate-report", "--fresh");
    assert.equal(alone.artifacts[0].sha256, run.artifacts[0].sha256);
    line("app", "start", "harbour");
  });
  await check("the template: the worker runs when it is asked for", async () => {
    const worker = () => status("harbour").services[0];
    assert.deepEqual([worker().name, worker().state], ["worker", "none"]);
    line("app", "service", "start", "harbour", "worker");
    await eventually("its work", () => line("app", "logs", "harbour", "--service", "worker").includes("3 times"));
    assert.equal(worker().state, "ready");
    line("app", "rm", "harbour");
  });
  await check("an action alone runs without an app", () => {
    deploy("exports", action);
    assert.ok(line("app", "run", "exports", "export-csv").endsWith("name,berth,tonnes\nAlbatross,1,4200\nKestrel,3,1850\nHeron,4,920"));
    assert.equal(status("exports").state, "none");
    line("app", "rm", "exports");
  });
  await check("an action that requires the start command brings it up first", () => {
    writeFileSync(join(work, "alone.yaml"), requiresStart);
    refused(/requires_start_without_start|no start command/, "app", "validate", join(work, "alone.yaml"));
    deploy("browsed", starts + requiresStart);
    assert.equal(status("browsed").desired, "offline");
    const { status: code, stdout, stderr } = attempt("app", "run", "browsed", "browser-smoke-test");
    assert.equal(code, 0, `${stdout}${stderr}`);
    assert.match(stdout, /the browser shows 3 ships/);
    line("app", "rm", "browsed");
  });
};

try {
  await check("a template whose packages come from a mirror, and one with Bun from npm", () => {
    writeFileSync(join(work, "template.yaml"), TEMPLATE);
    line("template", "create", "-f", join(work, "template.yaml"));
    const id = line("sandbox", "create", "mirrored", "--ttl", "600");
    line("sandbox", "exec", id, "--", "sh", "-ec", `npm install --prefix /opt --no-audit --no-fund --loglevel=error bun@${BUN}; test "$(bun --version)" = ${BUN}`);
    // In place of the built-in one, for manifests that say nothing of what they run on.
    line("template", "from-sandbox", "default", id);
    line("sandbox", "rm", id);
  });
  for (const [name, part] of Object.entries({ tides, guestbook, mission })) {
    if (parts.length === 0 || parts.includes(name)) await part();
  }
  assert.deepEqual(json("app", "ls").apps ?? [], []);
} finally {
  await browser.close();
}
console.log(`${passed} passed, 0 failed`);
