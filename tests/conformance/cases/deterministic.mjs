// Scripts whose clock stands still and whose chance comes from code and input. These run one after another, twice.
const spec = { deterministic: true };
export default [
  { name: 'the clock stands still', spec, code: 'const a = Date.now(); for (let i = 0; i < 1e5; i++); return [Date.now() - a, new Date().getTime() - a]', value: [0, 0], needs: 'determinism' },
  { name: 'chance is the same', spec, code: 'return [Math.random(), crypto.randomUUID(), [...crypto.getRandomValues(new Uint8Array(8))]]', same: true, needs: 'determinism' },
  { name: 'and is still chance', spec, code: 'return new Set(Array.from({ length: 50 }, Math.random)).size', value: 50, needs: 'determinism' },
  { name: 'dates are dates', spec, code: "return [new Date() instanceof Date, new Date(5).getTime(), Date.UTC(2000, 0, 1), new Date().constructor === Date, typeof Date()]", value: [true, 5, 946684800000, true, 'string'], needs: 'determinism' },
];
