/** The swing as a picture: capacity, what the background brought, what another download got. The scale is logarithmic. */
import { COLOURS, frame, legend, polyline, svgOfPanels, type Point } from '../svg.js';

export type PlottedLine = {
  readonly name: string;
  readonly points: readonly { readonly atSeconds: number; readonly bitsPerSecond: number }[];
};

const LEAST = 0.1e6;
const MOST = 400e6;
const heightOf = (bitsPerSecond: number): number =>
  Math.max(0, Math.log(Math.max(bitsPerSecond, LEAST) / LEAST) / Math.log(MOST / LEAST));
const rateAt = (height: number): number => (LEAST * (MOST / LEAST) ** height) / 1e6;

export const swingSvg = (lines: readonly PlottedLine[], seconds: number): string => {
  const title = 'A line that swings, the background and another download (what arrives, over one second)';
  const x = { most: seconds, unit: 'seconds' };
  const drawn = lines.map(({ name, points }, at) => {
    const colour = COLOURS[at % COLOURS.length] ?? 'black';
    const drawnPoints = points.map((point): Point => [point.atSeconds / seconds, heightOf(point.bitsPerSecond)]);
    return polyline(drawnPoints, colour) + legend(name, colour, at);
  });
  return svgOfPanels([frame(title, x, { most: MOST / 1e6, unit: 'Mbit/s' }, rateAt) + drawn.join('')]);
};
