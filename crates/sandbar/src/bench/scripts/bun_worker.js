// A yardstick: the same calls by Bun, a worker spawned for each, up to the message with its result. Not a wall either.
//   bun bun_worker.js COUNT CODE DATA ROW
// Arguments and output are those of bench/native-quickjs.
const [count, code, data, row] = process.argv.slice(2);

// Ops take and give JSON.
function host(name, args) {
  JSON.parse(args);
  return name === "db.list" ? `[${row},${row}]` : row;
}

async function call() {
  const worker = new Worker(import.meta.url);
  const value = await new Promise((resolve, reject) => {
    worker.onerror = (event) => reject(new Error(event.message));
    worker.onmessage = ({ data: said }) => {
      if (said.op) worker.postMessage({ seq: said.seq, value: host(said.op, said.args) });
      else if (said.error) reject(new Error(said.error));
      else resolve(said.value);
    };
    worker.postMessage({ code, data });
  });
  return { value, worker };
}

async function measure() {
  const times = [];
  let value;
  for (let i = 0; i < Number(count); i++) {
    const begun = Bun.nanoseconds();
    const called = await call();
    times.push(Math.round(Bun.nanoseconds() - begun));
    value = called.value;
    // The next is not to pay for its end.
    const closed = new Promise((resolve) => called.worker.addEventListener("close", resolve));
    called.worker.terminate();
    await closed;
  }
  console.log(JSON.stringify({ times_ns: times, value: JSON.parse(value), rss_bytes: process.memoryUsage.rss() }));
}

function work() {
  const waiting = new Map();
  const op = async (name, args) => {
    const seq = waiting.size + 1;
    const answer = new Promise((resolve) => waiting.set(seq, resolve));
    postMessage({ op: name, seq, args: JSON.stringify(args) });
    return JSON.parse(await answer);
  };
  const db = { one: (slug, id) => op("db.one", { slug, id }), list: (slug, query) => op("db.list", { slug, query }) };
  const Body = (async () => {}).constructor;
  self.onmessage = async ({ data: told }) => {
    if (told.seq) return waiting.get(told.seq)(told.value);
    try {
      postMessage({ value: JSON.stringify(await new Body("ctx", told.code)({ data: JSON.parse(told.data), db })) });
    } catch (error) {
      postMessage({ error: String(error) });
    }
  };
}

if (Bun.isMainThread) await measure();
else work();
