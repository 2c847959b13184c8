// What `bun run dev --host 0.0.0.0` starts: first what takes its time, then the server.
import { existsSync } from "node:fs";
import { parseArgs } from "node:util";
import { SHIPS } from "./ships.ts";

const { values } = parseArgs({ args: Bun.argv.slice(2), options: { host: { type: "string", default: "127.0.0.1" } } });

console.log("the harbour opens when the fog is gone");
while (existsSync("fog")) {
  await Bun.sleep(50);
}

const rows = () => SHIPS.map(({ name, berth }) => `<li>${name} at berth ${berth}</li>`).join("");
const page = () => new Response(`<!doctype html><title>Harbour</title><h1>Harbour</h1><ul>${rows()}</ul>`, { headers: { "content-type": "text/html" } });

const server = Bun.serve({
  hostname: values.host,
  port: 3000,
  routes: { "/": page, "/ships": () => Response.json(SHIPS) },
  fetch: () => new Response("there is no such page", { status: 404 }),
});
console.log(`listening on ${server.hostname}:${server.port} with bun ${Bun.version}`);
