// The moon's and the sun's share, in hours and metres.
const PARTS = [
  { period: 12.4206, height: 1.2, at: 3.1 },
  { period: 12, height: 0.4, at: 1.2 },
];

export const level = (hour) => PARTS.reduce((sum, { period, height, at }) => sum + height * Math.cos((2 * Math.PI * (hour - at)) / period), 2);

/** The turns of a day, minute by minute. */
export function tides(day) {
  const found = [];
  const at = (minute) => level(day * 24 + minute / 60);
  for (let minute = 0; minute < 24 * 60; minute++) {
    const [before, now, after] = [at(minute - 1), at(minute), at(minute + 1)];
    const high = before < now && now >= after;
    if (high || (before > now && now <= after)) {
      found.push({ hour: Math.floor(minute / 60), minute: minute % 60, high, metres: now });
    }
  }
  return found;
}
