import { SHIPS } from "./ships.ts";

console.log(["name,berth,tonnes", ...SHIPS.map(({ name, berth, tonnes }) => `${name},${berth},${tonnes}`)].join("\n"));
