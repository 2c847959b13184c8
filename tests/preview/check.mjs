// A Vite application in a sandbox, seen in Chromium through private previews. See tests/preview.sh.

import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { performance } from "node:perf_hooks";

const { SANDBAR_URL: api, SANDBAR_TOKEN: token, SANDBAR_BIN: sandbar, WORK: work, VITE_TAR: tar, CLIENT: client } = process.env;
const { chromium } = createRequire(`${client}/`)("playwright-core");
const PORT = 5173;
const SOON_MS = 45_000;
const INDEX = `<!doctype html><title>Hot</title><p id="said"></p><script type="module" src="/main.js"></script>`;
const main = (text) => `import { say } from "./say.js";
say(${JSON.stringify(text)});
import.meta.hot.accept();
`;
const SAY = `export const say = (text) => { document.getElementById("said").textContent = text; };\n`;

const call = async (method, path, body) => {
  const json = body !== undefined && !Buffer.isBuffer(body);
  const reply = await fetch(api + path, { method, headers: { authorization: `Bearer ${token}` }, body: json ? JSON.stringify(body) : body });
  const answer = await reply.json();
  assert.ok(reply.ok, `${method} ${path}: ${reply.status} ${JSON.stringify(answer)}`);
  return answer.data;
};

let passed = 0;
const check = async (name, run) => {
  const begun = performance.now();
  const said = await run();
  passed += 1;
  console.log(`ok ${name} (${((performance.now() - begun) / 1000).toFixed(1)} s)${said ? `: ${said}` : ""}`);
};

const { sandbox_id: id } = await call("POST", "/api/v1/sandboxes", { template: "default", config: { resources: { memory: "2Gi" } } });
const box = `/api/v1/sandboxes/${id}`;
const write = (path, text) => call("POST", `${box}/files?path=${path}`, Buffer.from(text));
const sh = (script) => call("POST", `${box}/contexts`, { type: "cmd", cmd: { command: ["sh", "-ec", script] }, wait_until_done: true });
const preview = (more = {}) => call("POST", `${box}/previews`, { port: PORT, ...more });
const line = (...args) => execFileSync(sandbar, args, { env: { ...process.env, SANDBAR_URL: api, SANDBAR_TOKEN: token }, encoding: "utf8" }).trim();

const args = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync".split(" ");
const browser = await chromium.launch({ executablePath: "/usr/bin/chromium", args });
try {
  await check("a Vite application starts in a sandbox", async () => {
    await write("/workspace/app.tar", readFileSync(tar));
    const unpacked = await sh("cd /workspace && tar -xf app.tar && rm app.tar && ls node_modules | wc -l");
    assert.equal(unpacked.exit_code ?? 0, 0, JSON.stringify(unpacked));
    await write("/workspace/index.html", INDEX);
    await write("/workspace/say.js", SAY);
    await write("/workspace/main.js", main("hello, one"));
    await call("POST", `${box}/contexts`, { type: "cmd", cmd: { command: ["node", "node_modules/vite/bin/vite.js"], cwd: "/workspace" } });
  });

  const context = await browser.newContext();
  const page = await context.newPage();
  const errors = [];
  const sockets = [];
  page.on("pageerror", (error) => errors.push(String(error)));
  page.on("websocket", (socket) => sockets.push(socket));
  let url;
  await check("its page waits until the server is up, and shows", async () => {
    url = line("sandbox", "preview", "create", id, String(PORT), "--path", "/?from=test");
    await page.goto(url);
    await page.getByText("hello, one").waitFor({ timeout: SOON_MS });
    const now = new URL(page.url());
    assert.equal(now.pathname + now.search, "/?from=test", "the secret is not in the address any more");
    return now.host;
  });
  await check("Chromium keeps the cookie of http://*.localhost, and it alone is enough", async () => {
    const cookies = (await context.cookies()).map(({ name, secure, httpOnly, sameSite }) => ({ name, secure, httpOnly, sameSite }));
    assert.deepEqual(cookies.find(({ name }) => name === "__Host-sandbox0-preview"), { name: "__Host-sandbox0-preview", secure: true, httpOnly: true, sameSite: "None" });
    await context.clearCookies({ name: "sandbox0-preview" });
    assert.equal((await context.cookies()).length, 1);
    await page.reload();
    await page.getByText("hello, one").waitFor({ timeout: SOON_MS });
  });
  await check("an edited file is replaced in the page without a reload", async () => {
    const socket = sockets.at(-1);
    assert.equal(new URL(socket.url()).host, new URL(page.url()).host, "the socket of hot reload goes to the public host");
    await page.evaluate(() => { window.mark = 7; });
    const begun = performance.now();
    await write("/workspace/main.js", main("hello, two"));
    await page.getByText("hello, two").waitFor({ timeout: SOON_MS });
    const took = performance.now() - begun;
    assert.equal(await page.evaluate(() => window.mark), 7, "it was reloaded");
    assert.deepEqual(errors, []);
    return `${took.toFixed(0)} ms after the write began`;
  });
  await check("nobody else gets in, with the same link or without", async () => {
    const stranger = await (await browser.newContext()).newPage();
    assert.equal((await stranger.goto(url)).status(), 404);
    assert.match(await stranger.textContent("body"), /used before/);
    assert.equal((await stranger.goto(new URL("/", url).href)).status(), 404);
  });
  await check("it shows within a page of another site", async () => {
    const { url: framed } = await preview();
    const outer = createServer((_, reply) => reply.setHeader("content-type", "text/html").end(`<iframe src="${framed}"></iframe>`));
    await new Promise((up) => outer.listen(0, "127.0.0.1", up));
    try {
      const outside = await (await browser.newContext()).newPage();
      await outside.goto(`http://127.0.0.1:${outer.address().port}/`);
      await outside.frameLocator("iframe").getByText("hello, two").waitFor({ timeout: SOON_MS });
    } finally {
      outer.close();
    }
  });
  await check("curl gets in with a jar of cookies", async () => {
    const { url: link } = await preview();
    const { host, port } = new URL(link);
    const name = host.replace(`:${port}`, "");
    const jar = `${work}/jar`;
    const done = spawnSync("curl", ["-sSL", "--resolve", `${name}:${port}:127.0.0.1`, "-c", jar, "-b", jar, "-w", "\n%{http_code}", link], { encoding: "utf8" });
    assert.ok(done.stdout.includes("/@vite/client") && done.stdout.endsWith("200"), `${done.stdout}${done.stderr}`);
    return readFileSync(jar, "utf8").split("\n").filter((row) => row.includes("preview")).map((row) => row.split("\t")[5]).join(", ");
  });
  await check("after a pause one that wakes shows the page, and the other says that it has ended", async () => {
    const waking = await browser.newContext();
    const sleeper = await waking.newPage();
    const { url: link } = await preview({ resume: true });
    await sleeper.goto(link);
    await sleeper.getByText("hello, two").waitFor({ timeout: SOON_MS });
    // A page that loses its connection asks for it again, and would wake the sandbox.
    await sleeper.goto("about:blank");
    await call("POST", `${box}/pause`, {});
    assert.equal((await page.goto(new URL("/", url).href)).status(), 401);
    assert.match(await page.textContent("body"), /not running/);
    await sleeper.goto(new URL("/", link).href);
    await sleeper.getByText("hello, two").waitFor({ timeout: SOON_MS });
    assert.equal((await page.reload()).status(), 401);
    await page.goto("about:blank");
  });
  await check("the command line lists and revokes", async () => {
    const rows = JSON.parse(line("-o", "json", "sandbox", "preview", "ls", id)).previews;
    // Those that ended with the pause are told no more.
    assert.ok(rows.length === 1 && rows.every((row) => row.resume && !row.url.includes("token")), JSON.stringify(rows));
    line("sandbox", "preview", "rm", id, ...rows.map((row) => row.id));
    assert.deepEqual(JSON.parse(line("-o", "json", "sandbox", "preview", "ls", id)).previews, []);
  });
} finally {
  await browser.close();
  await call("DELETE", box);
}
console.log(`${passed} checks passed`);
