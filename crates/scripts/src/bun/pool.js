// The program that Bun runs inside a sandbox: frames of src/frame.rs on stdin and stdout, one fresh worker for each call.
//
// A worker is no boundary: its globals are taken away before a script runs, but `import("node:fs")` is not, so one script
// can reach all that lies in this process. That is why only code that its owner marked as trusted comes here, why a process
// belongs to one team, and why the whole of it stands in a sandbox without a network.
//
// Messages to a worker: context, run, rpc-reply, heap. From it: began, rpc, log, step (entries are over), heap, result.
import { readFileSync, readdirSync } from "node:fs";

const KIND = { run: 1, settle: 2, cancel: 3, check: 4, ready: 16, step: 17, checked: 18 };
const HEADER_BYTES = 9;
const FRAME_BYTES_MAX = 40 << 20;
// Started before they are needed, so that no call waits for it.
const IDLE_WORKERS = 2;
// More calls than this wait for one to end, and their time runs meanwhile.
const WORKERS_MAX = 24;
const LOOK_EVERY_MS = 10;
// What the process may grow by during a call beyond what that may have, before its worker is asked how much it holds:
// collectors are lazy.
const GARBAGE_BYTES = 96 << 20;
// Who is busy cannot answer. With so much more in use, or after so long, that counts as too much.
const GARBAGE_BYTES_MAX = 384 << 20;
const HEAP_ANSWER_MS = 50;

const AsyncFunction = (async () => {}).constructor;
const source = (name) => `${readFileSync(new URL(name, import.meta.url), "utf8")}\n//# sourceURL=sandbar:${name}`;
// Read once: what a script may do to the files is nothing to those after it. Frames of ours have names by which they are told apart.
const program = `import { heapStats } from "bun:jsc"; (0, eval)(${JSON.stringify(source("worker.js"))})(heapStats);`;
const workerUrl = URL.createObjectURL(new Blob([program], { type: "application/javascript" }));
const context = source("ctx.js");

// --- frames ---

const send = (kind, call, json) => {
  const payload = Buffer.from(json, "utf8");
  const frame = Buffer.allocUnsafe(HEADER_BYTES + payload.length);
  frame.writeUInt32BE(payload.length + 5, 0);
  frame[4] = kind;
  frame.writeUInt32BE(call, 5);
  payload.copy(frame, HEADER_BYTES);
  process.stdout.write(frame);
};

const fail = (why) => {
  console.error(why);
  process.exit(70);
};

let parts = [];
let have = 0;
const take = (bytes) => {
  if (parts.length > 1) parts = [Buffer.concat(parts)];
  const taken = parts[0].subarray(0, bytes);
  parts = bytes === parts[0].length ? [] : [parts[0].subarray(bytes)];
  have -= bytes;
  return taken;
};

let header = null;
const feed = (chunk) => {
  parts.push(chunk);
  have += chunk.length;
  for (;;) {
    if (!header) {
      if (have < HEADER_BYTES) return;
      const bytes = take(HEADER_BYTES);
      header = { length: bytes.readUInt32BE(0) - 5, kind: bytes[4], call: bytes.readUInt32BE(5) };
      if (header.length < 0 || header.length > FRAME_BYTES_MAX) fail(`a frame of ${header.length} bytes`);
    }
    if (have < header.length) return;
    const { kind, call, length } = header;
    header = null;
    receive(kind, call, length ? take(length).toString("utf8") : "");
  }
};

const receive = (kind, id, text) => {
  if (kind === KIND.run) return enqueue(new Call(id, text));
  if (kind === KIND.check) return send(KIND.checked, id, JSON.stringify({ error: check(JSON.parse(text)) }));
  const call = calls.get(id);
  // An answer for a call that has ended meanwhile.
  if (!call) return;
  if (kind === KIND.settle) call.settle(text);
  else if (kind === KIND.cancel) call.fail("cancelled", "CancelledError", "the call was cancelled");
  else fail(`a frame of kind ${kind}`);
};

// --- workers ---

const idle = [];
const waiting = [];
const calls = new Map();
let running = 0;

let spawned = 0;

const spawn = () => {
  // Its thread has that name.
  const name = `call-${++spawned}`;
  const worker = new Worker(workerUrl, { smol: true, name });
  worker.postMessage({ type: "context", text: context });
  const place = { worker, name, call: null };
  worker.onmessage = ({ data }) => place.call?.hear(data);
  worker.onerror = (error) => place.call?.broken(error);
  worker.addEventListener("close", () => {
    const at = idle.indexOf(place);
    if (at >= 0) idle.splice(at, 1);
    place.call?.left();
  });
  return place;
};

const refill = () => {
  while (idle.length < IDLE_WORKERS && running + idle.length < WORKERS_MAX) idle.push(spawn());
};

const enqueue = (call) => {
  calls.set(call.id, call);
  waiting.push(call);
  next();
};

const next = () => {
  while (waiting.length && running < WORKERS_MAX) {
    const call = waiting.shift();
    if (call.ended) continue;
    running += 1;
    call.start(idle.shift() ?? spawn());
  }
  setImmediate(refill);
};

class Call {
  constructor(id, text) {
    this.id = id;
    this.text = text;
    const { timeoutMs, cpuMs, memoryBytes } = JSON.parse(text);
    Object.assign(this, { timeoutMs, cpuMs, memoryBytes });
    this.logs = [];
    this.ops = [];
    this.ended = false;
    this.peak = 0;
    this.cpuUs = 0;
    this.timer = setTimeout(() => this.fail("timeout", "TimeoutError", `timed out after ${this.timeoutMs}ms`), this.timeoutMs);
  }

  start(place) {
    this.place = place;
    this.base = process.memoryUsage.rss();
    place.call = this;
    place.worker.postMessage({ type: "run", text: this.text });
    this.text = null;
    watch();
  }

  settle(text) {
    this.place?.worker.postMessage({ type: "rpc-reply", text });
  }

  hear(message) {
    if (this.ended) return;
    switch (message.type) {
      case "began":
        this.cpuFrom = message.cpuUs;
        return;
      case "log":
        this.logs.push(message.line);
        return;
      case "rpc":
        this.ops.push(`{"seq":${message.seq},"op":${JSON.stringify(message.op)},"args":${message.args}}`);
        return;
      case "step":
        for (let n = 0; n < message.count; n++) this.step("");
        return;
      case "heap":
        this.asked = null;
        this.peak = Math.max(this.peak, message.bytes);
        if (message.bytes > this.memoryBytes) this.outOfMemory();
        return;
      case "result":
        this.peak = Math.max(this.peak, message.heap);
        this.cpuUs = message.cpuUs;
        return this.end(message.failure ? `"failure":${JSON.stringify(message.failure)}` : message.value === undefined ? "" : `"value":${message.value}`);
    }
  }

  // Says what was said so far.
  step(done) {
    const fields = [];
    if (this.logs.length) fields.push(`"logs":[${this.logs.join(",")}]`);
    if (this.ops.length) fields.push(`"ops":[${this.ops.join(",")}]`);
    if (done) fields.push(done);
    this.logs = [];
    this.ops = [];
    send(KIND.step, this.id, `{${fields.join(",")}}`);
  }

  fail(code, name, message) {
    if (!this.ended) this.end(`"failure":${JSON.stringify({ code, name, message })}`);
  }

  outOfMemory() {
    this.fail("memory", "MemoryError", `the script needs more memory than it may have: ${Math.round(this.memoryBytes / 1048576)} MiB`);
  }

  // Nothing is left that could wake the script.
  left() {
    this.fail("user_error", "DeadlockError", "the script waits for a promise that nothing will settle");
  }

  broken(error) {
    const message = String(error?.message ?? error);
    if (/out of memory/i.test(message)) this.outOfMemory();
    else this.fail("internal", "InternalError", `the worker failed: ${message}`);
  }

  end(what) {
    this.ended = true;
    calls.delete(this.id);
    clearTimeout(this.timer);
    if (this.place) {
      if (!this.cpuUs) this.look();
      this.place.call = null;
      this.place.worker.terminate();
      running -= 1;
    }
    // What it asked for last is not wanted any more.
    this.ops = [];
    const usage = JSON.stringify({ cpu_us: this.cpuUs, peak_memory_bytes: Math.round(this.peak) });
    this.step(`"done":{${what}${what ? "," : ""}"usage":${usage}}`);
    next();
  }

  // How much of a processor it had, also when it cannot say so.
  look() {
    if (this.cpuFrom === undefined) return;
    this.tid ??= threadNamed(this.place.name);
    if (this.tid) this.cpuUs = Math.max(this.cpuUs, cpuUsOf(this.tid) - this.cpuFrom);
  }

  // Who spins does not answer. Unless it is soon too much for all, nobody is blamed for what another may have taken or left behind.
  askHeap(now, isHuge) {
    if (this.asked) {
      if (isHuge && now - this.asked > HEAP_ANSWER_MS) this.outOfMemory();
      return;
    }
    this.asked = now;
    this.place.worker.postMessage({ type: "heap" });
  }
}

const readText = (path) => {
  try {
    return readFileSync(path, "latin1");
  } catch {
    return "";
  }
};

const threadNamed = (name) => readdirSync("/proc/self/task").find((tid) => readText(`/proc/self/task/${tid}/comm`).trim() === name);

const cpuUsOf = (tid) => Math.round(Number(readText(`/proc/self/task/${tid}/schedstat`).split(" ", 1)[0]) / 1000);

// --- what calls use, while there are any ---

let watching = null;
const watch = () => {
  if (watching) return;
  watching = setInterval(() => {
    const busy = [...calls.values()].filter((call) => call.place);
    if (!busy.length) {
      clearInterval(watching);
      watching = null;
      return;
    }
    const now = performance.now();
    const bytes = process.memoryUsage.rss();
    for (const call of busy) {
      // What a call that ended left behind goes by and by.
      call.base = Math.min(call.base, bytes);
      const more = bytes - call.base - call.memoryBytes;
      if (call.cpuMs < call.timeoutMs) {
        call.look();
        if (call.cpuUs > call.cpuMs * 1000) call.fail("timeout", "TimeoutError", `timed out after ${call.cpuMs}ms of processor time`);
      }
      if (call.ended) continue;
      if (more > GARBAGE_BYTES) call.askHeap(now, more > GARBAGE_BYTES_MAX);
      else call.asked = null;
    }
  }, LOOK_EVERY_MS);
};

// --- syntax ---

// Where the code is wrong: whether is JavaScriptCore's word, where the transpiler's, which alone tells.
const check = ({ code }) => {
  try {
    new AsyncFunction("ctx", code);
    return null;
  } catch (error) {
    let message = error.message;
    let line = 1;
    let column = 1;
    try {
      new Bun.Transpiler({ loader: "js" }).transformSync(`async function script(ctx) {\n${code}\n}`);
    } catch (found) {
      const first = found.errors?.[0] ?? found;
      if (first.position) {
        message = first.message ?? message;
        line = Math.max(1, first.position.line - 1);
        column = first.position.column;
        // What is missing at the end is noticed after the end.
        const lines = code.split("\n");
        if (line > lines.length) {
          line = lines.length;
          column = lines.at(-1).length + 1;
        }
      }
    }
    return { message, line, column };
  }
};

process.stdin.on("data", feed);
process.stdin.on("end", () => process.exit(0));
refill();
send(KIND.ready, 0, "");
