/**
 * Two transceivers, one subscription: every order of moves of the small model, over disks in memory. ORDER_MOVES=n: of so many moves, each
 * order at both paces; without it each at one of them, in turn. Real guests are in guest-orders.integ.ts.
 */
import { describe, expect, test } from 'vitest';
import { INITIAL_BYTES } from '../backup/backup-lab.js';
import { liveThrough, type OrderDevice, type OrderWorld } from './live-through.js';
import { DISK_OF_ORDERS, MemoryWorlds, type Pace } from './memory-world.js';
import { MOVES_WITH_GUESTS, ordersOf, wordsOf, type Order } from './moves.js';

const LONG = process.env['ORDER_MOVES'];
const MOVES = Number(LONG ?? 3);
/** Its clock stands still: of one account it takes so many requests and no more. */
const ORDERS_OF_A_SERVER = 100;
const PACES: readonly Pace[] = ['at-once', 'late'];

test('the model has every order once: steals back and forth, of what is suspended, of what is away', () => {
  const orders = ordersOf(MOVES_WITH_GUESTS).map(wordsOf);
  expect(new Set(orders).size).toBe(orders.length);
  for (const order of [
    'a starts, a suspends, b steals, a resumes',
    'a starts, b starts, b steals, a steals',
    'b starts, b disconnects, a steals, b reconnects',
    'b disconnects, b starts, a starts, b reconnects',
    'a disconnects, a starts, a suspends, a reconnects',
  ])
    expect(orders).toContain(order);
});

test.each(PACES.map((pace, turn) => ({ pace, turn })))(
  `every order of ${String(MOVES)} moves, saved $pace`,
  async ({ pace, turn }) => {
    const orders = ordersOf(MOVES).filter((_, index) => LONG !== undefined || index % PACES.length === turn);
    expect(orders.length).toBeGreaterThan(0);
    for (let from = 0; from < orders.length; from += ORDERS_OF_A_SERVER) {
      await using worlds = await MemoryWorlds.open();
      for (const order of orders.slice(from, from + ORDERS_OF_A_SERVER))
        await liveThrough(await worlds.world(pace), order);
    }
  },
  LONG === undefined ? 600_000 : 86_400_000,
);

describe('the judge refuses', () => {
  const ORDER: Order = [
    { who: 'a', deed: 'starts' },
    { who: 'b', deed: 'steals' },
  ];
  const through = async (change: (world: OrderWorld) => OrderWorld): Promise<void> => {
    await using worlds = await MemoryWorlds.open();
    await liveThrough(change(await worlds.world('at-once')), ORDER);
  };
  /** The device does something else there. */
  const having = ({ devices: both, histories }: OrderWorld, b: Partial<OrderDevice>): OrderWorld => ({
    devices: { ...both, b: Object.assign(both.b, b) },
    histories,
  });

  test('a state that was replaced by the other one’s, and whose snapshot is gone', async () => {
    await expect(
      through(({ devices: both, histories }) => ({
        devices: both,
        histories: async () =>
          (await histories()).map((history) => ({
            ...history,
            snapshots: history.snapshots.filter(({ number, isHead }) => isHead || number > 1),
          })),
      })),
    ).rejects.toThrow('is in no snapshot');
  });

  test('a write that was acknowledged and is not there', async () => {
    await expect(through((world) => having(world, { write: async () => undefined }))).rejects.toThrow(/the disk is/);
  });

  test('two heads, and none', async () => {
    for (const isHead of [true, false])
      await expect(
        through(({ devices: both, histories }) => ({
          devices: both,
          histories: async () =>
            (await histories()).map((history) => ({
              ...history,
              snapshots: history.snapshots.map((each) => ({ ...each, isHead })),
            })),
        })),
      ).rejects.toThrow(/there are [0-9]+ heads/);
  });

  test('a byte beside the marks', () => {
    const image = Buffer.from(INITIAL_BYTES);
    image.writeUInt8(image.readUInt8(image.length - 1) ^ 1, image.length - 1);
    expect(() => DISK_OF_ORDERS.marksOf(image)).toThrow(`byte ${String(image.length - 1)} of the disk`);
  });
});
