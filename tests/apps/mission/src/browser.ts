// The page as a browser without a screen shows it. What Debian starts it by reads a folder of /etc that a sandbox does not have.
import { $ } from "bun";
import { SHIPS } from "./ships.ts";

const flags = "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run --disable-background-networking --virtual-time-budget=10000".split(" ");
const page = await $`/usr/lib/chromium/chromium ${flags} --user-data-dir=/tmp/browser --dump-dom http://127.0.0.1:3000/`.quiet().text();
const missing = SHIPS.filter(({ name }) => !page.includes(`<li>${name} at berth`));
if (missing.length > 0) {
  console.error(`not on the page: ${missing.map(({ name }) => name).join(", ")}\n${page}`);
  process.exit(1);
}
console.log(`the browser shows ${SHIPS.length} ships`);
