// TextEncoder and TextDecoder, UTF-8 alone.
(host, define) => {
  "use strict";
  const { apply } = Reflect;
  const { encode, decode } = host;
  const { toWellFormed, toLowerCase, trim } = String.prototype;
  const Bytes = Uint8Array, Buffer = ArrayBuffer, { isView } = ArrayBuffer, TypeErrorHere = TypeError, RangeErrorHere = RangeError;
  const { set, subarray } = Object.getPrototypeOf(Uint8Array.prototype);

  const bytesOf = (input) => {
    if (input === undefined) return new Bytes(0);
    if (isView(input)) return new Bytes(input.buffer, input.byteOffset, input.byteLength);
    if (input instanceof Buffer) return new Bytes(input);
    throw new TypeErrorHere("an ArrayBuffer or a view of one is needed");
  };

  class TextEncoder {
    get encoding() {
      return "utf-8";
    }
    encode(input = "") {
      return encode(apply(toWellFormed, `${input}`, []));
    }
    encodeInto(source, destination) {
      const text = `${source}`;
      let read = 0, written = 0;
      while (read < text.length) {
        const point = text.codePointAt(read);
        const width = point > 0xffff ? 2 : 1;
        const bytes = encode(apply(toWellFormed, text.slice(read, read + width), []));
        if (written + bytes.length > destination.length) break;
        apply(set, destination, [bytes, written]);
        written += bytes.length;
        read += width;
      }
      return { read, written };
    }
  }

  // How many bytes at the end begin a character and do not end it.
  const unfinished = (bytes) => {
    for (let back = 1; back <= 3 && back <= bytes.length; back++) {
      const byte = bytes[bytes.length - back];
      if (byte >= 0xf0) return back < 4 ? back : 0;
      if (byte >= 0xe0) return back < 3 ? back : 0;
      if (byte >= 0xc0) return back < 2 ? back : 0;
      if (byte < 0x80) return 0;
    }
    return 0;
  };

  class TextDecoder {
    #fatal;
    #keepMark;
    #rest = new Bytes(0);
    #begun = false;
    constructor(label = "utf-8", options = {}) {
      const name = apply(toLowerCase, apply(trim, `${label}`, []), []);
      if (name !== "utf-8" && name !== "utf8" && name !== "unicode-1-1-utf-8") throw new RangeErrorHere(`the encoding ${name} is not supported: utf-8 is`);
      this.#fatal = !!options?.fatal;
      this.#keepMark = !!options?.ignoreBOM;
    }
    get encoding() {
      return "utf-8";
    }
    get fatal() {
      return this.#fatal;
    }
    get ignoreBOM() {
      return this.#keepMark;
    }
    decode(input, options) {
      let bytes = bytesOf(input);
      const stream = !!options?.stream;
      if (this.#rest.length > 0) {
        const joined = new Bytes(this.#rest.length + bytes.length);
        apply(set, joined, [this.#rest, 0]);
        apply(set, joined, [bytes, this.#rest.length]);
        bytes = joined;
      }
      const keep = stream ? unfinished(bytes) : 0;
      this.#rest = keep > 0 ? new Bytes(apply(subarray, bytes, [bytes.length - keep])) : new Bytes(0);
      if (keep > 0) bytes = apply(subarray, bytes, [0, bytes.length - keep]);
      let text = decode(bytes, this.#fatal);
      if (text === null) {
        this.#begun = false;
        throw new TypeErrorHere("the bytes are no UTF-8");
      }
      if (!this.#begun && !this.#keepMark && text.length > 0 && text[0] === "\ufeff") text = text.slice(1);
      this.#begun = stream && (this.#begun || text.length > 0);
      return text;
    }
  }

  define("TextEncoder", TextEncoder);
  define("TextDecoder", TextDecoder);
}
