import { SHIPS } from "./ships.ts";

const report = { bun: Bun.version, ships: SHIPS.length, tonnes: SHIPS.reduce((sum, { tonnes }) => sum + tonnes, 0) };
await Bun.write("artifacts/report.json", JSON.stringify(report));
console.log(`${report.ships} ships, ${report.tonnes} tonnes`);
