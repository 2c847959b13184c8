import { level } from "./tides.js";

const WIDTH = 840;
const HEIGHT = 190;

export default function Curve({ day }) {
  const points = Array.from({ length: 97 }, (_, quarter) => {
    const x = (quarter / 96) * WIDTH;
    const y = HEIGHT / 2 - (level(day * 24 + quarter / 4) - 2) * 45;
    return `${x.toFixed(1)},${y.toFixed(1)}`;
  });
  return (
    <svg viewBox={`0 0 ${WIDTH} ${HEIGHT}`} role="img" aria-label={`The water on day ${day + 1}`}>
      <polygon points={`0,${HEIGHT} ${points.join(" ")} ${WIDTH},${HEIGHT}`} />
    </svg>
  );
}
