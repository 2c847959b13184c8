export type Ship = { name: string; berth: number; tonnes: number };

export const SHIPS: Ship[] = [
  { name: "Albatross", berth: 1, tonnes: 4200 },
  { name: "Kestrel", berth: 3, tonnes: 1850 },
  { name: "Heron", berth: 4, tonnes: 920 },
];
