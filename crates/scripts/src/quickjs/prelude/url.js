// URL and URLSearchParams. The host takes URLs apart and puts them together, by the WHATWG's rules.
(host, define) => {
  "use strict";
  const { apply } = Reflect;
  const { url, encode, decode } = host;
  const { toWellFormed, split, slice, indexOf, charCodeAt } = String.prototype;
  const { fromCharCode } = String;
  const TypeErrorHere = TypeError, Bytes = Uint8Array;
  const iterator = Symbol.iterator;
  const HREF = 0, ORIGIN = 1, PROTOCOL = 2, USERNAME = 3, PASSWORD = 4, HOST = 5, HOSTNAME = 6, PORT = 7, PATHNAME = 8, SEARCH = 9, HASH = 10;
  const well = (value) => apply(toWellFormed, `${value}`, []);
  const parts = (text) => (text === null ? null : apply(split, text, ["\n"]));

  const HEX = "0123456789ABCDEF";
  const escape = (text) => {
    const bytes = encode(well(text));
    let out = "";
    for (let i = 0; i < bytes.length; i++) {
      const byte = bytes[i];
      const plain = (byte >= 48 && byte <= 57) || (byte >= 65 && byte <= 90) || (byte >= 97 && byte <= 122) || byte === 42 || byte === 45 || byte === 46 || byte === 95;
      out += plain ? fromCharCode(byte) : byte === 32 ? "+" : "%" + HEX[byte >> 4] + HEX[byte & 15];
    }
    return out;
  };
  const digit = (code) => (code >= 48 && code <= 57 ? code - 48 : code >= 65 && code <= 70 ? code - 55 : code >= 97 && code <= 102 ? code - 87 : -1);
  const unescape = (text) => {
    const bytes = encode(text);
    const out = new Bytes(bytes.length);
    let used = 0;
    for (let i = 0; i < bytes.length; i++) {
      let byte = bytes[i];
      if (byte === 43) byte = 32;
      else if (byte === 37 && i + 2 < bytes.length) {
        const high = digit(bytes[i + 1]), low = digit(bytes[i + 2]);
        if (high >= 0 && low >= 0) {
          byte = high * 16 + low;
          i += 2;
        }
      }
      out[used++] = byte;
    }
    return decode(new Bytes(out.buffer, 0, used), false);
  };

  let listen;
  class URLSearchParams {
    #pairs = [];
    #changed = null;
    static {
      listen = (search, text, changed) => {
        search.#read(text);
        search.#changed = changed;
      };
    }
    #read(text) {
      this.#pairs = [];
      const fields = apply(split, text, ["&"]);
      for (let i = 0; i < fields.length; i++) {
        const field = fields[i];
        if (field === "") continue;
        const at = apply(indexOf, field, ["="]);
        this.#pairs.push(at < 0 ? [unescape(field), ""] : [unescape(apply(slice, field, [0, at])), unescape(apply(slice, field, [at + 1]))]);
      }
    }
    constructor(init = "") {
      if (typeof init === "object" && init !== null) {
        if (typeof init[iterator] === "function") {
          for (const [name, value] of init) this.#pairs.push([well(name), well(value)]);
        } else {
          for (const name of Object.keys(init)) this.#pairs.push([well(name), well(init[name])]);
        }
      } else {
        const text = well(init);
        this.#read(text[0] === "?" ? apply(slice, text, [1]) : text);
      }
    }
    #tell() {
      if (this.#changed !== null) this.#changed(this.toString());
    }
    get size() {
      return this.#pairs.length;
    }
    append(name, value) {
      this.#pairs.push([well(name), well(value)]);
      this.#tell();
    }
    delete(name, value) {
      const of = well(name), text = value === undefined ? undefined : well(value);
      this.#pairs = this.#pairs.filter((pair) => pair[0] !== of || (text !== undefined && pair[1] !== text));
      this.#tell();
    }
    get(name) {
      const of = well(name);
      return this.#pairs.find((pair) => pair[0] === of)?.[1] ?? null;
    }
    getAll(name) {
      const of = well(name);
      return this.#pairs.filter((pair) => pair[0] === of).map((pair) => pair[1]);
    }
    has(name, value) {
      const of = well(name), text = value === undefined ? undefined : well(value);
      return this.#pairs.some((pair) => pair[0] === of && (text === undefined || pair[1] === text));
    }
    set(name, value) {
      const of = well(name), text = well(value);
      let found = false;
      this.#pairs = this.#pairs.filter((pair) => {
        if (pair[0] !== of) return true;
        if (found) return false;
        found = true;
        pair[1] = text;
        return true;
      });
      if (!found) this.#pairs.push([of, text]);
      this.#tell();
    }
    sort() {
      this.#pairs.sort((a, b) => (a[0] < b[0] ? -1 : a[0] > b[0] ? 1 : 0));
      this.#tell();
    }
    forEach(callback, self) {
      for (let i = 0; i < this.#pairs.length; i++) apply(callback, self, [this.#pairs[i][1], this.#pairs[i][0], this]);
    }
    *entries() {
      for (let i = 0; i < this.#pairs.length; i++) yield [this.#pairs[i][0], this.#pairs[i][1]];
    }
    *keys() {
      for (let i = 0; i < this.#pairs.length; i++) yield this.#pairs[i][0];
    }
    *values() {
      for (let i = 0; i < this.#pairs.length; i++) yield this.#pairs[i][1];
    }
    [iterator]() {
      return this.entries();
    }
    toString() {
      let text = "";
      for (let i = 0; i < this.#pairs.length; i++) text += (i === 0 ? "" : "&") + escape(this.#pairs[i][0]) + "=" + escape(this.#pairs[i][1]);
      return text;
    }
    get [Symbol.toStringTag]() {
      return "URLSearchParams";
    }
  }

  class URL {
    #parts;
    #search = null;
    constructor(input, base) {
      const parsed = parts(url(0, well(input), base === undefined ? undefined : well(base)));
      if (parsed === null) throw new TypeErrorHere("Invalid URL");
      this.#parts = parsed;
    }
    static canParse(input, base) {
      return url(0, well(input), base === undefined ? undefined : well(base)) !== null;
    }
    static parse(input, base) {
      return URL.canParse(input, base) ? new URL(input, base) : null;
    }
    #set(part, value) {
      const changed = parts(url(part, this.#parts[HREF], well(value)));
      if (changed !== null) this.#parts = changed;
      return changed !== null;
    }
    #refresh() {
      if (this.#search !== null) this.#link();
    }
    #link() {
      listen(this.#search, apply(slice, this.#parts[SEARCH], [1]), (text) => this.#set(SEARCH, text));
    }
    get href() {
      return this.#parts[HREF];
    }
    set href(value) {
      const parsed = parts(url(0, well(value), undefined));
      if (parsed === null) throw new TypeErrorHere("Invalid URL");
      this.#parts = parsed;
      this.#refresh();
    }
    get origin() {
      return this.#parts[ORIGIN];
    }
    get protocol() {
      return this.#parts[PROTOCOL];
    }
    set protocol(value) {
      this.#set(PROTOCOL, value);
    }
    get username() {
      return this.#parts[USERNAME];
    }
    set username(value) {
      this.#set(USERNAME, value);
    }
    get password() {
      return this.#parts[PASSWORD];
    }
    set password(value) {
      this.#set(PASSWORD, value);
    }
    get host() {
      return this.#parts[HOST];
    }
    set host(value) {
      this.#set(HOST, value);
    }
    get hostname() {
      return this.#parts[HOSTNAME];
    }
    set hostname(value) {
      this.#set(HOSTNAME, value);
    }
    get port() {
      return this.#parts[PORT];
    }
    set port(value) {
      this.#set(PORT, value);
    }
    get pathname() {
      return this.#parts[PATHNAME];
    }
    set pathname(value) {
      this.#set(PATHNAME, value);
    }
    get search() {
      return this.#parts[SEARCH];
    }
    set search(value) {
      this.#set(SEARCH, value);
      this.#refresh();
    }
    get hash() {
      return this.#parts[HASH];
    }
    set hash(value) {
      this.#set(HASH, value);
    }
    get searchParams() {
      if (this.#search === null) {
        this.#search = new URLSearchParams();
        this.#link();
      }
      return this.#search;
    }
    toString() {
      return this.#parts[HREF];
    }
    toJSON() {
      return this.#parts[HREF];
    }
    get [Symbol.toStringTag]() {
      return "URL";
    }
  }

  define("URL", URL);
  define("URLSearchParams", URLSearchParams);
}
