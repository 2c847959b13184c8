// What a script sees as `ctx`, for every engine that runs in our hands. One function expression:
//   rpc(op, args)      a promise of the answer; rejects with an Error that has `code`
//   log(level, text)   0 debug, 1 log, 2 info, 3 warn, 4 error; false when no more lines are taken
//   data, user         of the call
// It is called before the script's code runs, so what it takes from the globals is what the engine put there.
(rpc, log, data, user) => {
  "use strict";
  const { apply } = Reflect;
  const { freeze, defineProperty, create } = Object;
  const { stringify, parse } = JSON;
  const HeadersHere = Headers, SearchHere = URLSearchParams, ErrorHere = Error, TypeErrorHere = TypeError, PromiseHere = Promise;
  const StringHere = String;
  const BufferHere = ArrayBuffer, Bytes = Uint8Array, isView = ArrayBuffer.isView, codesToText = String.fromCharCode;
  const BASE64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  const headersForEach = Headers.prototype.forEach, headersHas = Headers.prototype.has, headersSet = Headers.prototype.set;
  const searchToString = URLSearchParams.prototype.toString;
  const { split, startsWith, includes, trimEnd, toWellFormed, charCodeAt } = String.prototype;

  // Only what the script wrote: our own frames and those of built-ins say nothing to its author.
  const frames = (stack) => {
    const lines = apply(split, stack, ["\n"]);
    let kept = "";
    for (let i = 0; i < lines.length; i++) {
      const line = lines[i];
      const isOurs = apply(includes, line, ["sandbar:"]) || apply(includes, line, ["(native)"]) || apply(includes, line, ["at <input>:"]);
      if (!isOurs) kept += (kept === "" ? "" : "\n") + line;
    }
    return apply(trimEnd, kept, []);
  };

  const show = (value) => {
    if (typeof value === "string") return value;
    try {
      if (value instanceof ErrorHere) {
        const head = `${value.name}: ${value.message}`;
        const stack = typeof value.stack === "string" ? frames(value.stack) : "";
        return stack === "" ? head : apply(startsWith, stack, [head]) ? stack : `${head}\n${stack}`;
      }
      if (typeof value === "bigint") return `${value}n`;
      const json = stringify(value);
      return json === undefined ? StringHere(value) : json;
    } catch {
      return "[unserializable]";
    }
  };

  let taken = true;
  const level = (number) => (...values) => {
    if (!taken) return;
    let text = "";
    for (let i = 0; i < values.length; i++) text += (i === 0 ? "" : " ") + show(values[i]);
    if (log(number, apply(toWellFormed, text, [])) === false) taken = false;
  };
  const console = { debug: level(0), log: level(1), info: level(2), warn: level(3), error: level(4) };

  const hidden = (object, name, value) =>
    defineProperty(object, name, { __proto__: null, value, enumerable: false, writable: true, configurable: true });

  // `text` is a string, as it always was here; the rest of a Response is there for code that expects one.
  const response = (answer) => {
    const { status, ok, text } = answer;
    const result = { status, ok, text };
    hidden(result, "headers", new HeadersHere(answer.headers ?? {}));
    hidden(result, "url", answer.url ?? "");
    hidden(result, "redirected", answer.redirected ?? false);
    hidden(result, "json", async () => parse(text));
    return result;
  };

  // Bytes go out as text, a piece at a time: no call takes an argument for each of them.
  const base64 = (bytes) => {
    const code = (n) => apply(charCodeAt, BASE64, [n & 63]);
    const { length } = bytes;
    let text = "";
    for (let from = 0; from < length; from += 6144) {
      const codes = [];
      const to = from + 6144 < length ? from + 6144 : length;
      for (let at = from, n = 0; at < to; at += 3) {
        const three = (bytes[at] << 16) | ((at + 1 < length ? bytes[at + 1] : 0) << 8) | (at + 2 < length ? bytes[at + 2] : 0);
        define(codes, n++, code(three >> 18));
        define(codes, n++, code(three >> 12));
        define(codes, n++, at + 1 < length ? code(three >> 6) : 61);
        define(codes, n++, at + 2 < length ? code(three) : 61);
      }
      text += apply(codesToText, undefined, codes);
    }
    return text;
  };
  // What a script defined on Array.prototype is not asked.
  const define = (list, at, value) => defineProperty(list, at, { __proto__: null, value, enumerable: true, writable: true, configurable: true });

  const request = (init) => {
    if (init === undefined || init === null) return undefined;
    const { method, headers, body, redirect } = init;
    const sent = create(null);
    if (method !== undefined) sent.method = `${method}`;
    if (redirect !== undefined) sent.redirect = `${redirect}`;
    const of = new HeadersHere(headers ?? {});
    if (body !== undefined && body !== null) {
      if (body instanceof SearchHere) {
        sent.body = apply(searchToString, body, []);
        if (!apply(headersHas, of, ["content-type"])) apply(headersSet, of, ["content-type", "application/x-www-form-urlencoded;charset=UTF-8"]);
      } else if (typeof body === "string") {
        sent.body = body;
      } else if (isView(body)) {
        sent.bodyBase64 = base64(new Bytes(body.buffer, body.byteOffset, body.byteLength));
      } else if (body instanceof BufferHere) {
        sent.bodyBase64 = base64(new Bytes(body));
      } else {
        throw new TypeErrorHere("ctx.fetch: body must be a string, URLSearchParams, an ArrayBuffer or a view of one (JSON.stringify objects)");
      }
    }
    sent.headers = create(null);
    apply(headersForEach, of, [(value, name) => { sent.headers[name] = value; }]);
    return sent;
  };

  const fetch = async (url, init) => {
    const signal = init?.signal;
    if (signal?.aborted) throw signal.reason;
    const args = { url: `${url}`, init: request(init) };
    const asked = rpc("fetch", args);
    if (!signal) return response(await asked);
    return new PromiseHere((resolve, reject) => {
      signal.addEventListener("abort", () => reject(signal.reason));
      (async () => {
        try {
          resolve(response(await asked));
        } catch (error) {
          reject(error);
        }
      })();
    });
  };

  // `await`, and not the promise itself: an async function that returns a promise calls its `then`, which may be the script's.
  const ctx = {
    data,
    user: freeze({ id: user.id, email: user.email, roles: freeze(user.roles) }),
    fetch,
    db: freeze({
      list: async (slug, query) => await rpc("db.list", { slug, query }),
      one: async (slug, id) => await rpc("db.one", { slug, id }),
    }),
    email: freeze({ send: async (message) => await rpc("email.send", message) }),
    secrets: freeze({ get: async (name) => await rpc("secrets.get", { name }) }),
  };
  hidden(ctx, "console", console);
  return freeze(ctx);
}
