// What a script finds beside the language. One function expression, called once, before the image is taken; its result is what
// the guest calls (see boot in shim.c). `host` never becomes reachable for scripts, and what is needed of the built-ins is taken
// here, before a script can replace any of them. For the same reason nothing here iterates: iterators can be replaced.
(host, makeCtx, parts) => {
  "use strict";
  const { apply } = Reflect;
  const { defineProperty, getOwnPropertyDescriptor, create } = Object;
  const { stringify } = JSON;
  const ErrorHere = Error, StringHere = String;
  const { ask, log, now } = host;
  const { get: codeOf, set: keepCode } = WeakMap.prototype;
  const { slice, toWellFormed } = String.prototype;
  const stackOf = getOwnPropertyDescriptor(Error.prototype, "stack")?.get;

  const define = (name, value) =>
    defineProperty(globalThis, name, { __proto__: null, value, enumerable: false, writable: true, configurable: true });

  // With it a script would be handed the functions on the stack, ours among them.
  delete Error.prepareStackTrace;
  // Nobody to share with.
  delete globalThis.SharedArrayBuffer;
  delete globalThis.Atomics;
  delete globalThis.navigator;
  let complain = (error) => {};
  for (let i = 0; i < parts.length; i++) parts[i](host, define, (error) => complain(error));

  // Errors of the host's, and what it says of them, whatever a script makes of their `code`.
  const opErrors = new WeakMap();

  // --- what was thrown, for the host: JSON, made of strings alone so that nobody's toJSON has a say ---
  const text = (value, most) => {
    const whole = typeof value === "string" ? value : StringHere(value);
    // Halves of surrogate pairs, the script's or those of this cut, are nothing that the host can read.
    return apply(toWellFormed, apply(slice, whole, [0, most]), []);
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
      const code = apply(codeOf, opErrors, [error]);
      if (code !== undefined) said.code = code;
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
    apply(keepCode, opErrors, [error, code]);
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
