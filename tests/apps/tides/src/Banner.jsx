export default function Banner() {
  return <h1>Tides at the sandbar</h1>;
}
