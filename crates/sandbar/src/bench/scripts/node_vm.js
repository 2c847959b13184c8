// A yardstick: the same calls by node:vm, a fresh context for each. Not a wall: https://nodejs.org/api/vm.html says so.
//   node node_vm.js COUNT CODE DATA ROW
// Arguments and output are those of bench/native-quickjs.
const vm = require("node:vm");

const [count, code, data, row] = process.argv.slice(2);

// Ops take and give JSON.
async function host(name, args) {
  JSON.parse(args);
  return name === "db.list" ? `[${row},${row}]` : row;
}

async function call() {
  const context = vm.createContext({ host });
  const source = `(async () => {
    const op = async (name, args) => JSON.parse(await host(name, JSON.stringify(args)));
    const db = { one: (slug, id) => op("db.one", { slug, id }), list: (slug, query) => op("db.list", { slug, query }) };
    return JSON.stringify(await (async (ctx) => {${code}\n})({ data: ${data}, db }));
  })()`;
  return await vm.runInContext(source, context);
}

async function main() {
  const times = [];
  let value;
  for (let i = 0; i < Number(count); i++) {
    const begun = process.hrtime.bigint();
    value = await call();
    times.push(Number(process.hrtime.bigint() - begun));
  }
  console.log(JSON.stringify({ times_ns: times, value: JSON.parse(value), rss_bytes: process.memoryUsage.rss() }));
}

main();
