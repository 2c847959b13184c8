// Nothing of one call is there in the next. These run one after another, twice.
const leave = "globalThis.left = 1; Object.prototype.left = 1; Array.prototype.map = () => 'mine'; JSON.stringify = () => '\"mine\"'; Promise.prototype.then2 = 1; console.log = () => {}; return 'left'";
export default [
  { name: 'what a call leaves behind', code: leave.replace("JSON.stringify = () => '\"mine\"'; ", ''), value: 'left', serial: true },
  { name: 'is not there in the next', code: "console.log('x'); return [typeof left, ({}).left === undefined, [1].map((x) => x + 1), 'then2' in Promise.prototype]", value: ['undefined', true, [2], false], logs: ['x'], serial: true },
  { name: 'a JSON of its own', code: "JSON.stringify = () => '\"mine\"'; JSON.parse = () => 1; const r = await ctx.db.list('posts', { limit: 1 }); return r.length", value: 1, serial: true },
  { name: 'nor that', code: 'return JSON.stringify([1]) + JSON.parse("[2]")', value: '[1]2', serial: true },
  { name: 'a promise of its own', code: "Promise.prototype.then = function () { throw new Error('mine') }; return 1", serial: true, anything: true },
  { name: 'nor that, either', code: "const r = await ctx.db.list('posts', { limit: 1 }); return r.length", value: 1, serial: true },
  { name: 'timers of the one before', code: 'setInterval(() => console.log("again"), 1); setTimeout(() => { globalThis.late = 1 }, 10); return 1', value: 1, serial: true },
  { name: 'do not run in the next', code: 'await new Promise((r) => setTimeout(r, 50)); return typeof late', value: 'undefined', logs: [], serial: true },
  { name: 'ctx is new', code: 'const seen = ctx.mark; ctx.mark = 1; return seen === undefined', value: true, serial: true },
  { name: 'the constructor of a function', code: "const F = ctx.fetch.constructor; const g = F('return this')(); return [typeof g.process, typeof g.require]", value: ['undefined', 'undefined'], serial: true },
];
