// Headers, AbortController, crypto and structuredClone: small, and as programs expect them.
(host, define) => {
  "use strict";
  const { apply } = Reflect;
  const { toLowerCase, charCodeAt, trim } = String.prototype;
  const { random, digest } = host;
  const { isView } = ArrayBuffer;
  const { getPrototypeOf, keys, prototype: ObjectPrototype, defineProperty } = Object;
  const { isArray } = Array;
  const Bytes = Uint8Array, Buffer = ArrayBuffer, TypeErrorHere = TypeError, ErrorHere = Error, DOMExceptionHere = DOMException, PromiseHere = Promise;
  const iterator = Symbol.iterator;
  const { get: tagOfTyped } = Object.getOwnPropertyDescriptor(Object.getPrototypeOf(Uint8Array.prototype), Symbol.toStringTag);

  const TOKEN = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz";
  const headerName = (name) => {
    const lower = apply(toLowerCase, `${name}`, []);
    let good = lower !== "";
    for (let i = 0; i < lower.length && good; i++) good = TOKEN.includes(lower[i]);
    if (!good) throw new TypeErrorHere(`${lower} is no name of a header`);
    return lower;
  };
  const headerValue = (value) => {
    const text = apply(trim, `${value}`, []);
    for (let i = 0; i < text.length; i++) {
      const code = apply(charCodeAt, text, [i]);
      if (code === 0 || code === 10 || code === 13) throw new TypeErrorHere("the value of a header is one line");
    }
    return text;
  };

  class Headers {
    #list = new Map();
    constructor(init) {
      if (init === undefined || init === null) return;
      if (typeof init !== "object") throw new TypeErrorHere("headers are an object or a list of pairs");
      if (typeof init[iterator] === "function") {
        for (const pair of init) this.append(pair[0], pair[1]);
      } else {
        for (const name of keys(init)) this.append(name, init[name]);
      }
    }
    append(name, value) {
      const key = headerName(name), text = headerValue(value);
      const before = this.#list.get(key);
      this.#list.set(key, before === undefined ? text : `${before}, ${text}`);
    }
    delete(name) {
      this.#list.delete(headerName(name));
    }
    get(name) {
      return this.#list.get(headerName(name)) ?? null;
    }
    getSetCookie() {
      const all = this.#list.get("set-cookie");
      return all === undefined ? [] : [all];
    }
    has(name) {
      return this.#list.has(headerName(name));
    }
    set(name, value) {
      this.#list.set(headerName(name), headerValue(value));
    }
    forEach(callback, self) {
      for (const [name, value] of this.entries()) apply(callback, self, [value, name, this]);
    }
    *entries() {
      for (const name of [...this.#list.keys()].sort()) yield [name, this.#list.get(name)];
    }
    *keys() {
      for (const [name] of this.entries()) yield name;
    }
    *values() {
      for (const [, value] of this.entries()) yield value;
    }
    [iterator]() {
      return this.entries();
    }
    get [Symbol.toStringTag]() {
      return "Headers";
    }
  }
  define("Headers", Headers);

  // --- AbortController ---
  let abort;
  class AbortSignal {
    #aborted = false;
    #reason = undefined;
    #listeners = [];
    onabort = null;
    static {
      abort = (signal, reason) => {
        if (signal.#aborted) return;
        signal.#aborted = true;
        signal.#reason = reason === undefined ? new DOMExceptionHere("This operation was aborted", "AbortError") : reason;
        const event = { type: "abort", target: signal };
        const listeners = signal.#listeners;
        signal.#listeners = [];
        if (typeof signal.onabort === "function") signal.onabort(event);
        for (let i = 0; i < listeners.length; i++) listeners[i](event);
      };
    }
    get aborted() {
      return this.#aborted;
    }
    get reason() {
      return this.#reason;
    }
    throwIfAborted() {
      if (this.#aborted) throw this.#reason;
    }
    addEventListener(type, listener) {
      if (type === "abort" && typeof listener === "function" && !this.#aborted) this.#listeners.push(listener);
    }
    removeEventListener(type, listener) {
      this.#listeners = this.#listeners.filter((known) => known !== listener);
    }
    static abort(reason) {
      const signal = new AbortSignal();
      abort(signal, reason);
      return signal;
    }
    static timeout(ms) {
      const signal = new AbortSignal();
      setTimeout(() => abort(signal, new DOMExceptionHere("The operation timed out", "TimeoutError")), ms);
      return signal;
    }
    static any(signals) {
      const joined = new AbortSignal();
      for (const signal of signals) {
        if (signal.aborted) abort(joined, signal.reason);
        else signal.addEventListener("abort", () => abort(joined, signal.reason));
      }
      return joined;
    }
  }
  class AbortController {
    #signal = new AbortSignal();
    get signal() {
      return this.#signal;
    }
    abort(reason) {
      abort(this.#signal, reason);
    }
  }
  define("AbortSignal", AbortSignal);
  define("AbortController", AbortController);

  // --- crypto ---
  const INTEGERS = ["Int8Array", "Uint8Array", "Uint8ClampedArray", "Int16Array", "Uint16Array", "Int32Array", "Uint32Array", "BigInt64Array", "BigUint64Array"];
  const ALGORITHMS = ["SHA-1", "SHA-256", "SHA-384", "SHA-512"];
  const HEX = "0123456789abcdef";
  const crypto = {
    getRandomValues(array) {
      const kind = isView(array) ? apply(tagOfTyped, array, []) : undefined;
      if (!INTEGERS.includes(kind)) throw new TypeErrorHere("an array of integers is needed");
      if (array.byteLength > 65536) throw new DOMExceptionHere("65536 random bytes can be had at a time", "QuotaExceededError");
      random(new Bytes(array.buffer, array.byteOffset, array.byteLength));
      return array;
    },
    randomUUID() {
      const bytes = new Bytes(16);
      random(bytes);
      bytes[6] = (bytes[6] & 15) | 64;
      bytes[8] = (bytes[8] & 63) | 128;
      let text = "";
      for (let i = 0; i < 16; i++) text += (i === 4 || i === 6 || i === 8 || i === 10 ? "-" : "") + HEX[bytes[i] >> 4] + HEX[bytes[i] & 15];
      return text;
    },
    subtle: {
      async digest(algorithm, data) {
        const name = `${typeof algorithm === "object" && algorithm !== null ? algorithm.name : algorithm}`.toUpperCase();
        const number = ALGORITHMS.indexOf(name);
        if (number < 0) throw new DOMExceptionHere(`${name} is not supported: ${ALGORITHMS.join(", ")} are`, "NotSupportedError");
        const bytes = isView(data) ? new Bytes(data.buffer, data.byteOffset, data.byteLength) : data instanceof Buffer ? new Bytes(data) : null;
        if (bytes === null) throw new TypeErrorHere("an ArrayBuffer or a view of one is needed");
        return digest(number, bytes);
      },
    },
  };
  define("crypto", crypto);

  // --- structuredClone ---
  const refuse = (what) => {
    throw new DOMExceptionHere(`${what} could not be cloned`, "DataCloneError");
  };
  const copy = (value, seen) => {
    if (typeof value === "function") refuse("a function");
    if (typeof value === "symbol") refuse("a symbol");
    if (typeof value !== "object" || value === null) return value;
    const known = seen.get(value);
    if (known !== undefined) return known;
    const keep = (made) => {
      seen.set(value, made);
      return made;
    };
    if (isArray(value)) {
      const made = keep(new Array(value.length));
      for (const key of keys(value)) made[key] = copy(value[key], seen);
      return made;
    }
    if (value instanceof Date) return keep(new Date(value.getTime()));
    if (value instanceof RegExp) return keep(new RegExp(value.source, value.flags));
    if (value instanceof Map) {
      const made = keep(new Map());
      for (const [key, entry] of [...value]) made.set(copy(key, seen), copy(entry, seen));
      return made;
    }
    if (value instanceof Set) {
      const made = keep(new Set());
      for (const entry of [...value]) made.add(copy(entry, seen));
      return made;
    }
    if (value instanceof Buffer) return keep(value.slice(0));
    if (value instanceof DataView) return keep(new DataView(copy(value.buffer, seen), value.byteOffset, value.byteLength));
    if (isView(value)) return keep(new globalThis[apply(tagOfTyped, value, [])](copy(value.buffer, seen), value.byteOffset, value.length));
    if (value instanceof ErrorHere) {
      const kinds = ["EvalError", "RangeError", "ReferenceError", "SyntaxError", "TypeError", "URIError"];
      const made = keep(new (kinds.includes(value.name) ? globalThis[value.name] : ErrorHere)(`${value.message}`));
      if ("cause" in value) defineProperty(made, "cause", { value: copy(value.cause, seen), writable: true, configurable: true });
      defineProperty(made, "stack", { value: value.stack, writable: true, configurable: true });
      return made;
    }
    if (value instanceof Boolean || value instanceof Number || value instanceof String) return keep(Object(value.valueOf()));
    if (value instanceof PromiseHere || value instanceof WeakMap || value instanceof WeakSet || value instanceof WeakRef) refuse("such an object");
    const made = keep({});
    for (const key of keys(value)) defineProperty(made, key, { value: copy(value[key], seen), enumerable: true, writable: true, configurable: true });
    return made;
  };
  define("structuredClone", function structuredClone(value) {
    return copy(value, new Map());
  });
}
