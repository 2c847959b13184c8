(rpc, log, data, user) => {
  "use strict";
  const { stringify } = JSON;
  const format = (value) => {
    if (typeof value === "string") return value;
    try {
      return stringify(value) ?? String(value);
    } catch {
      return "[unserializable]";
    }
  };
  const level = (name) => (...args) => log(name, args.map(format).join(" "));
  globalThis.console = { debug: level("debug"), log: level("log"), info: level("info"), warn: level("warn"), error: level("error") };
  return {
    data,
    user,
    fetch: (url, init) => rpc("fetch", { url: String(url), init }),
    db: { list: (slug, query) => rpc("db.list", { slug, query }), one: (slug, id) => rpc("db.one", { slug, id }) },
    email: { send: (message) => rpc("email.send", message) },
    secrets: { get: (name) => rpc("secrets.get", { name }) },
  };
}
