import { useState } from "react";
import Banner from "./Banner.jsx";
import Curve from "./Curve.jsx";
import { tides } from "./tides.js";

export default function App() {
  const [day, setDay] = useState(0);
  return (
    <main>
      <Banner />
      <nav>
        <button onClick={() => setDay(day - 1)} disabled={day === 0}>
          earlier
        </button>
        <output data-testid="day">Day {day + 1}</output>
        <button onClick={() => setDay(day + 1)}>later</button>
      </nav>
      <Curve day={day} />
      <ol>
        {tides(day).map(({ hour, minute, high, metres }) => (
          <li key={hour * 60 + minute} className={high ? "high" : "low"}>
            <b>{high ? "High" : "Low"}</b>
            <time>
              {String(hour).padStart(2, "0")}:{String(minute).padStart(2, "0")}
            </time>
            <span>{metres.toFixed(1)} m</span>
          </li>
        ))}
      </ol>
    </main>
  );
}
