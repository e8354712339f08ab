/**
 * Two transceivers, one subscription, real guests: orders of four moves of the same small model that orders.integ.ts goes through over disks
 * in memory, by the command line, with the same judge.
 *
 * ORDERS=n orders from the ORDERS_FIRST'th on, of all of them in a fixed mixed sequence; so a soak goes through each once.
 */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { Random } from '../simulation/random.js';
import { GuestLab } from './guest-world.js';
import { liveThrough } from './live-through.js';
import { MOVES_WITH_GUESTS, ordersOf, wordsOf, type Order } from './moves.js';

const ORDERS = Number(process.env['ORDERS'] ?? 1);
const FIRST = Number(process.env['ORDERS_FIRST'] ?? 0);
const ORDER_MS = 900_000;

/** Neighbours in the enumeration differ in their last move only; a few of it are to differ in all. */
const mixed = (orders: readonly Order[]): readonly Order[] => {
  const random = new Random(1);
  return orders
    .map((order) => ({ order, at: random.bits() }))
    .sort((one, two) => one.at - two.at)
    .map(({ order }) => order);
};
const ALL = mixed(ordersOf(MOVES_WITH_GUESTS));
let lab: GuestLab;

beforeAll(async () => {
  lab = await GuestLab.open();
}, ORDER_MS);
afterAll(async () => lab[Symbol.asyncDispose]());

for (let index = 0; index < Math.min(ORDERS, ALL.length); index += 1) {
  const number = (FIRST + index) % ALL.length;
  const order = ALL[number] ?? [];
  const name = `ORDERS_FIRST=${number}: ${wordsOf(order)}`;
  test(
    name,
    async () => {
      expect(order.length).toBe(MOVES_WITH_GUESTS);
      try {
        await liveThrough(await lab.world(), order);
      } catch (error) {
        console.error(`${name}: ${String(error)}\n${await lab.logs()}`);
        throw error;
      } finally {
        await lab.clear();
      }
    },
    ORDER_MS,
  );
}
