// What a script finds beside the language. One function expression, called once, before the image is taken; its result is what
// the guest calls (see boot in shim.c). `host` never becomes reachable for scripts, and what is needed of the built-ins is taken
// here, before a script can replace any of them. For the same reason nothing here iterates: iterators can be replaced.
(host, makeCtx, parts) => {
  "use strict";
  const { apply } = Reflect;
  const { defineProperty, getOwnPropertyDescriptor, create } = Object;
  const { stringify } = JSON;
  const ErrorHere = Error, TypeErrorHere = TypeError, StringHere = String, NumberHere = Number;
  const { ask, log, now } = host;
  const { delete: mapDelete, get: mapGet, set: mapSet } = Map.prototype;
  const { has: setHas, add: setAdd } = WeakSet.prototype;
  const { slice } = String.prototype;
  const stackOf = getOwnPropertyDescriptor(Error.prototype, "stack")?.get;

  const define = (name, value) =>
    defineProperty(globalThis, name, { __proto__: null, value, enumerable: false, writable: true, configurable: true });

  // With it a script would be handed the functions on the stack, ours among them.
  delete Error.prepareStackTrace;
  // Nobody to share with.
  delete globalThis.SharedArrayBuffer;
  delete globalThis.Atomics;
  delete globalThis.navigator;
  for (let i = 0; i < parts.length; i++) parts[i](host, define);

  const opErrors = new WeakSet();

  // --- timers ---
  const timers = new Map();
  let lastTimer = 0;
  let complain = (error) => {};
  const arm = (id, callback, values, wait, repeat) => {
    const asked = ask("sleep", { ms: wait });
    (async () => {
      await asked;
      if (apply(mapGet, timers, [id]) === undefined) return;
      if (!repeat) apply(mapDelete, timers, [id]);
      try {
        apply(callback, undefined, values);
      } catch (error) {
        complain(error);
      }
      if (repeat && apply(mapGet, timers, [id]) !== undefined) arm(id, callback, values, wait, true);
    })();
  };
  const timer = (repeat) => (callback, wait, ...values) => {
    if (typeof callback !== "function") throw new TypeErrorHere("a timer needs a function");
    const ms = NumberHere(wait);
    const id = ++lastTimer;
    apply(mapSet, timers, [id, true]);
    arm(id, callback, values, ms > (repeat ? 1 : 0) ? (ms < 2147483647 ? ms : 2147483647) : repeat ? 1 : 0, repeat);
    return id;
  };
  const clear = (id) => { apply(mapDelete, timers, [id]); };
  define("setTimeout", timer(false));
  define("setInterval", timer(true));
  define("clearTimeout", clear);
  define("clearInterval", clear);

  // --- what was thrown, for the host: JSON, made of strings alone so that nobody's toJSON has a say ---
  const text = (value, most) => {
    const whole = typeof value === "string" ? value : StringHere(value);
    return apply(slice, whole, [0, most]);
  };
  const read = (error, key) => {
    try {
      return error[key];
    } catch {
      return undefined;
    }
  };
  const describe = (error) => {
    const said = create(null);
    said.name = "Error";
    said.message = "";
    if (typeof error === "object" && error !== null || typeof error === "function") {
      const name = read(error, "name"), message = read(error, "message");
      if (typeof name === "string" && name !== "") said.name = text(name, 200);
      if (typeof message === "string") {
        said.message = text(message, 8192);
      } else {
        let json;
        try {
          json = stringify(error);
        } catch {}
        said.message = json === undefined ? "something that is no Error was thrown" : text(json, 8192);
      }
      let stack = read(error, "stack");
      if (typeof stack !== "string" && stackOf !== undefined) {
        try {
          stack = apply(stackOf, error, []);
        } catch {}
      }
      if (typeof stack === "string") said.stack = text(stack, 16384);
      if (apply(setHas, opErrors, [error])) {
        const code = read(error, "code");
        if (typeof code === "string") said.code = text(code, 40);
      }
    } else {
      said.message = error === undefined || error === null ? `${error} was thrown` : text(error, 8192);
      if (error === null) said.nothing = "null";
    }
    return stringify(said);
  };

  const opError = (code, message, stack) => {
    const error = new ErrorHere(message);
    defineProperty(error, "code", { __proto__: null, value: code, enumerable: true, writable: true, configurable: true });
    defineProperty(error, "stack", { __proto__: null, value: stack ?? "", enumerable: false, writable: true, configurable: true });
    apply(setAdd, opErrors, [error]);
    return error;
  };

  // --- a run ---
  const begin = (data, user) => {
    const ctx = makeCtx(ask, log, data, user);
    const { console } = ctx;
    define("console", console);
    const { error } = console;
    complain = (thrown) => error("Uncaught", thrown);
    uncaughtSay = (reason) => error("Uncaught (in promise)", reason);
    const origin = now();
    define("performance", { now: () => now() - origin, timeOrigin: origin });
    return ctx;
  };
  let uncaughtSay = (reason) => {};
  const uncaught = (reason) => uncaughtSay(reason);

  return { begin, describe, opError, uncaught };
}
