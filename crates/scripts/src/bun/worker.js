// What a worker of pool.js runs: one call. One function expression, called before there is a script. What is needed of the built-ins
// is taken here, before a script can replace any of them.
(heapStats) => {
  "use strict";
  const { parse, stringify } = JSON;
  const { defineProperty } = Object;
  const { apply } = Reflect;
  const { slice, toWellFormed } = String.prototype;
  const { now } = Date;
  const post = postMessage;
  const soon = setImmediate;
  const bun = Bun;
  const collect = bun.gc;
  const utf8Bytes = Buffer.byteLength;
  const utf8 = Buffer.from.bind(Buffer);
  const { subarray: bytesOf, toString: textOf } = Buffer.prototype;
  const cpuOf = process.threadCpuUsage.bind(process);
  const onProcess = process.on.bind(process);
  const evaluate = eval;
  const AsyncFunction = (async () => {}).constructor;
  const ErrorHere = Error;

  const cpuUs = () => {
    const { user, system } = cpuOf();
    return user + system;
  };

  // Who listens is not idle: while nothing can come, nobody does, and then the event loop ends when it has nothing else to wait for.
  const add = addEventListener.bind(globalThis, "message");
  const remove = removeEventListener.bind(globalThis, "message");
  const listen = (isWanted) => (isWanted ? add(hear) : remove(hear));

  // What scripts find besides the language: the same as in the other engines. Everything else of Bun's is taken away.
  const KEEP = new Set(
    `Object Function Array Number parseFloat parseInt Infinity NaN undefined Boolean String Symbol Date Promise RegExp Error
    AggregateError EvalError RangeError ReferenceError SyntaxError TypeError URIError globalThis JSON Math Intl ArrayBuffer
    Uint8Array Int8Array Uint16Array Int16Array Uint32Array Int32Array Float32Array Float64Array Float16Array Uint8ClampedArray
    BigUint64Array BigInt64Array DataView Map BigInt Set WeakMap WeakSet WeakRef FinalizationRegistry Iterator Proxy Reflect
    decodeURI decodeURIComponent encodeURI encodeURIComponent escape unescape eval isFinite isNaN SuppressedError DisposableStack
    AsyncDisposableStack
    URL URLSearchParams TextEncoder TextDecoder Headers AbortController AbortSignal DOMException atob btoa structuredClone crypto
    performance queueMicrotask setTimeout clearTimeout setInterval clearInterval`.split(/\s+/),
  );

  const strip = () => {
    for (const target of [globalThis, Object.getPrototypeOf(globalThis)]) {
      for (const key of Reflect.ownKeys(target)) {
        if (KEEP.has(key) || (target !== globalThis && (key === "constructor" || typeof key === "symbol" || key in Object.prototype))) continue;
        if (!Reflect.deleteProperty(target, key)) Reflect.set(target, key, undefined);
      }
    }
    // This one stays, so it is emptied as far as it can be, and scripts see another of its name.
    for (const key of Reflect.ownKeys(bun)) Reflect.deleteProperty(bun, key) || Reflect.set(bun, key, undefined);
  };

  // --- between script and host ---

  const pending = new Map();
  const fromHost = new WeakMap();
  let limits;
  let asked = 0;
  let flushing = false;
  let owed = 0;
  let over = false;

  // Everything that one entry into the script said goes out together, when nothing of it is left to run. There is a step for
  // each entry, and one for what a timer said in between.
  const flush = (entries) => {
    owed += entries;
    if (flushing || over) return;
    flushing = true;
    soon(() => {
      flushing = false;
      if (over) return;
      post({ type: "step", count: owed || 1 });
      owed = 0;
      listen(pending.size > 0);
    });
  };

  const opError = (code, message) => {
    const error = new ErrorHere(message);
    defineProperty(error, "code", { value: code, enumerable: true, configurable: true, writable: true });
    fromHost.set(error, code);
    return error;
  };

  const rpc = (op, args) =>
    new Promise((resolve, reject) => {
      if (asked >= limits.ops) return reject(opError("user_error", `more than ${limits.ops} operations`));
      if (pending.size >= limits.opsPending) return reject(opError("user_error", `more than ${limits.opsPending} operations at once`));
      const text = stringify(args === undefined ? null : args);
      const seq = ++asked;
      pending.set(seq, { resolve, reject });
      listen(true);
      post({ type: "rpc", seq, op, args: text });
      flush(0);
    });

  const settle = ({ seq, value, error }) => {
    const waiter = pending.get(seq);
    pending.delete(seq);
    if (!waiter) return;
    if (error) waiter.reject(opError(error.code, error.message));
    else waiter.resolve(value ?? null);
  };

  const LEVELS = ["debug", "log", "info", "warn", "error"];
  const FULL = "[the log is full: further lines are left out]";
  const CUT = " [cut off here: the log is full, further lines are left out]";
  let lines = 0;
  let bytes = 0;
  let isFull = false;
  // False when no more is taken.
  const log = (level, text) => {
    if (over || isFull) return false;
    const room = limits.logBytes - bytes;
    const length = utf8Bytes(text);
    let line = { level: LEVELS[level], at_ms: now(), text };
    if (lines >= limits.logLines || room <= 0) {
      line = { ...line, level: "warn", text: FULL };
      isFull = true;
    } else if (length > room) {
      // As much as there is room for, and no half of a character.
      const head = apply(textOf, apply(bytesOf, utf8(text, "utf8"), [0, room]), ["utf8"]);
      line.text = head.replace(/\ufffd+$/, "") + CUT;
      isFull = true;
    }
    lines += 1;
    bytes += length;
    post({ type: "log", line: stringify(line) });
    flush(0);
    return !isFull;
  };

  // --- a world that was seen before ---

  // Time and chance as they are told: each moment of the clock was read so often, and then the last one stands still.
  const pin = (clock, seed) => {
    const moments = clock.map(([ms, times]) => ({ ms, times }));
    const told = () => {
      const first = moments[0] ?? { ms: 0, times: 0 };
      if (first.times > 1) first.times -= 1;
      else if (moments.length > 1) moments.shift();
      return first.ms;
    };
    const Real = Date;
    globalThis.Date = new Proxy(Real, {
      construct: (target, args, made) => Reflect.construct(target, args.length ? args : [told()], made),
      apply: () => new Real(told()).toString(),
      get: (target, key, self) => (key === "now" ? told : Reflect.get(target, key, self)),
    });
    Real.prototype.constructor = globalThis.Date;
    defineProperty(performance, "now", { value: () => 0 });
    // sfc32: for repeating, not for secrets.
    const state = Uint32Array.from({ length: 4 }, (_, n) => parseInt(seed.slice(n * 8, n * 8 + 8), 16));
    const next = () => {
      const sum = (state[0] + state[1] + state[3]) | 0;
      state[3] += 1;
      state[0] = state[1] ^ (state[1] >>> 9);
      state[1] = state[2] + (state[2] << 3);
      state[2] = ((state[2] << 21) | (state[2] >>> 11)) + sum;
      return sum >>> 0;
    };
    for (let n = 0; n < 20; n++) next();
    Math.random = () => (next() * 2 ** 21 + (next() >>> 11)) / 2 ** 53;
    const fill = (array) => {
      const bytes = new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
      for (let n = 0; n < bytes.length; n++) bytes[n] = next();
      return array;
    };
    const uuid = () => {
      const b = fill(new Uint8Array(16));
      b[6] = (b[6] & 15) | 64;
      b[8] = (b[8] & 63) | 128;
      return Array.from(b, (byte) => byte.toString(16).padStart(2, "0")).join("").replace(/(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
    };
    defineProperty(crypto, "getRandomValues", { value: fill });
    defineProperty(crypto, "randomUUID", { value: uuid });
  };

  // --- what was thrown ---

  const NAME_CHARS_MAX = 200;
  const MESSAGE_CHARS_MAX = 8192;
  const STACK_CHARS_MAX = 16384;
  // Before the first line of the script.
  const PREFIX = "(function (Bun) { return async function (ctx) {";

  // Halves of surrogate pairs, the script's or those of this cut, are nothing that the host can read.
  const readable = (text, most) => apply(toWellFormed, apply(slice, text, [0, most]), []);

  const isObject = (value) => (typeof value === "object" && value !== null) || typeof value === "function";
  // Getters of a script's own errors may throw, too.
  const safely = (read, otherwise) => {
    try {
      return read();
    } catch {
      return otherwise;
    }
  };
  const nameOf = (error) => {
    const name = safely(() => error.name);
    return typeof name === "string" && name !== "" ? readable(name, NAME_CHARS_MAX) : "Error";
  };
  const messageOf = (error) => {
    if (!isObject(error)) return error === undefined || error === null ? `${error} was thrown` : String(error);
    const message = safely(() => error.message);
    if (typeof message === "string") return message;
    return safely(() => stringify(error)) ?? "something that is no Error was thrown";
  };

  const failureOf = (error, name) => {
    const message = readable(messageOf(error), MESSAGE_CHARS_MAX);
    const failure = { code: (isObject(error) && fromHost.get(error)) || "user_error", name: isObject(error) ? nameOf(error) : "Error", message };
    if (failure.code !== "denied" && failure.code !== "internal") failure.code = "user_error";
    if (error instanceof RangeError && /out of memory/i.test(message)) failure.code = "memory";
    const stack = safely(() => framesOf(String(error.stack), name));
    if (stack) failure.stack = readable(stack, STACK_CHARS_MAX);
    return failure;
  };

  // Frames of the script alone.
  const framesOf = (stack, name) => {
    const frames = [];
    for (const line of stack.split("\n")) {
      const at = /^\s*at (?:(.*) )?\(?(.+?):(\d+):(\d+)\)?$/.exec(line);
      if (!at || at[2] !== encodeURI(name)) continue;
      const [, called = "<anonymous>", , row, column] = at;
      frames.push(`    at ${called} (${name}:${row}:${row === "1" ? Math.max(1, column - PREFIX.length) : column})`);
    }
    return frames.join("\n");
  };

  // --- the call ---

  const heapBytes = () => {
    const { heapSize, extraMemorySize } = heapStats();
    return heapSize + extraMemorySize;
  };

  // The code is a body by itself, or it is refused; only then is it written into another function, on the line that it had.
  const compile = (code, name) => {
    new AsyncFunction("ctx", code);
    return evaluate(`${PREFIX}${code}\n}})\n//# sourceURL=${encodeURI(name)}`)(undefined);
  };

  // Deeper than this is more than others read.
  const DEPTH_MAX = 100;
  const isTooDeep = (json) => {
    let depth = 0;
    for (let at = 0; at < json.length; at++) {
      const char = json[at];
      if (char === '"') {
        for (at++; json[at] !== '"'; at++) if (json[at] === "\\") at++;
      } else if (char === "[" || char === "{") {
        if (++depth > DEPTH_MAX) return true;
      } else if (char === "]" || char === "}") depth--;
    }
    return false;
  };
  const refusal = (json) => {
    const length = utf8Bytes(json);
    if (length > limits.outputBytes) {
      return { failure: { code: "payload_too_large", name: "PayloadTooLargeError", message: `the result has ${length} bytes: ${limits.outputBytes} are allowed` } };
    }
    if (!isTooDeep(json)) return null;
    return { failure: { code: "unserializable", name: "UnserializableError", message: `the result is nested too deep: ${DEPTH_MAX} levels are allowed` } };
  };

  let makeContext;

  const run = async (text) => {
    const from = cpuUs();
    post({ type: "began", cpuUs: from });
    const { code, name, data, user, clock, seed, ...rest } = parse(text);
    limits = rest;
    if (clock) pin(clock, seed);
    const end = (what) => {
      over = true;
      post({ type: "result", heap: heapBytes(), cpuUs: cpuUs() - from, ...what });
    };
    let value;
    try {
      const ctx = makeContext(rpc, log, data, user);
      const { error } = ctx.console;
      defineProperty(globalThis, "console", { value: ctx.console, enumerable: false, writable: true, configurable: true });
      // What nobody waits for may fail: the script goes on.
      onProcess("unhandledRejection", (reason) => error("Uncaught (in promise)", reason));
      onProcess("uncaughtException", (thrown) => error("Uncaught", thrown));
      const script = compile(code, name);
      flush(1);
      value = await script(ctx);
    } catch (error) {
      return end({ failure: failureOf(error, name) });
    }
    let json;
    try {
      json = stringify(value);
    } catch (error) {
      return end({ failure: { code: "unserializable", name: "UnserializableError", message: readable(`the result is no JSON: ${messageOf(error)}`, MESSAGE_CHARS_MAX) } });
    }
    end(json === undefined ? {} : refusal(json) ?? { value: json });
  };

  const hear = ({ data: { type, text } }) => {
    if (type === "run") run(text);
    else if (type === "context") makeContext = evaluate(text);
    else if (type === "rpc-reply") {
      settle(parse(text));
      flush(1);
    } else if (type === "heap") {
      collect(true);
      post({ type: "heap", bytes: heapBytes() });
    }
  };
  // All that takes time is done before there is a call.
  strip();
  listen(true);
}
