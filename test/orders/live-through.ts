/**
 * Goes through one order of moves (moves.ts) and judges what must hold, whatever the devices are made of: a disk changes under nobody, but
 * by the other's state at a start, and then what was here before is among the snapshots; at the end everything that either of them wrote is
 * in a snapshot, to the byte, each subscription has exactly one head, and that is what a device of it has.
 *
 * Every device that goes on writes a mark. At the end each comes back, goes on if it was suspended, writes once more and is stopped; where
 * they went apart `a` continues here, and `b` keeps both.
 */
import {
  BEGINNING,
  isRefused,
  placesAfter,
  WHO,
  wordsOf,
  type Move,
  type Order,
  type Place,
  type Who,
} from './moves.js';
import { areSame, NO_MARKS, withMark, type Marks } from './order-disk.js';

/** `apart`: the other one went on, and here is something that it does not have. */
export type Settled = 'saved' | 'apart';

export interface OrderDevice {
  /** False: refused, for the other one has the lease. */
  start(options: { readonly isTakenOver: boolean }): Promise<boolean>;
  suspend(): Promise<void>;
  resume(): Promise<void>;
  stop(): Promise<void>;
  disconnect(): Promise<void>;
  reconnect(): Promise<void>;
  /** In the guest; durable when it resolves. */
  write(place: number, mark: string): Promise<void>;
  /** As the guest sees it. */
  read(): Promise<Marks>;
  /** Resolves when what was written here is saved, or cannot be. */
  settle(): Promise<Settled>;
  continue(which: 'here' | 'both'): Promise<void>;
}

/** A subscription as its readers get it from the server. */
export type History = {
  /** Those that go on with it. */
  readonly devices: readonly Who[];
  readonly snapshots: readonly { readonly number: number; readonly isHead: boolean; readonly marks: Marks }[];
};

export type OrderWorld = {
  readonly devices: Readonly<Record<Who, OrderDevice>>;
  readonly histories: () => Promise<readonly History[]>;
};

class Side {
  readonly who: Who;
  readonly device: OrderDevice;
  marks = NO_MARKS;
  #written = 0;

  constructor(who: Who, device: OrderDevice) {
    this.who = who;
    this.device = device;
  }

  async write(): Promise<void> {
    const place = this.#written;
    this.#written += 1;
    const mark = `${this.who}${this.#written}`;
    await this.device.write(place, mark);
    this.marks = withMark(this.marks, place, mark);
  }
}

class Life {
  readonly #world: OrderWorld;
  readonly #sides: Readonly<Record<Who, Side>>;
  #places = BEGINNING;
  /** What was replaced by the other's state. */
  readonly #owed: Marks[] = [];
  /** Every state that a disk had. */
  readonly #known: Marks[] = [NO_MARKS];
  #isOnTwo = false;

  constructor(world: OrderWorld) {
    this.#world = world;
    this.#sides = { a: new Side('a', world.devices.a), b: new Side('b', world.devices.b) };
  }

  async move(move: Move): Promise<void> {
    const side = this.#sides[move.who];
    await this.#do(move, side, this.#places[move.who]);
    const places = placesAfter(this.#places, move);
    if (places === undefined) throw new Error(`${wordsOf([move])}: the model cannot do that here`);
    this.#places = places;
    if (places[move.who].machine === 'runs') await this.#write(side);
    // Now, not some time: what can come next is then the same each time.
    if (move.deed === 'reconnects' && places[move.who].machine !== 'off') await side.device.settle();
  }

  async #do(move: Move, side: Side, { machine }: Place): Promise<void> {
    const { device } = side;
    switch (move.deed) {
      case 'starts':
      case 'steals':
        if (machine === 'runs') return this.#goOnHere(side);
        return this.#start(move, side);
      case 'suspends':
        return device.suspend();
      case 'resumes':
        await device.resume();
        return this.#expectKept(side);
      case 'disconnects':
        return device.disconnect();
      case 'reconnects':
        return device.reconnect();
      default:
        return move.deed satisfies never;
    }
  }

  async #start(move: Move, side: Side): Promise<void> {
    const runs = await side.device.start({ isTakenOver: move.deed === 'steals' });
    if (runs === isRefused(this.#places, move)) throw new Error(runs ? 'started, though in use' : 'refused');
    if (!runs) return;
    const now = await side.device.read();
    if (areSame(now, side.marks)) return;
    if (!this.#known.some((each) => areSame(each, now))) throw new Error(`${now.join()}: no disk ever was so`);
    this.#owed.push(side.marks);
    side.marks = now;
  }

  async #goOnHere({ device }: Side): Promise<void> {
    const settled = await device.settle();
    if (settled !== 'apart') throw new Error(`${settled}, though the other one has the lease`);
    await device.continue('here');
  }

  async #write(side: Side): Promise<void> {
    await side.write();
    this.#known.push(side.marks);
  }

  async #expectKept({ device, marks }: Side): Promise<void> {
    const now = await device.read();
    if (!areSame(now, marks)) throw new Error(`the disk is ${now.join()}, and was ${marks.join()}`);
  }

  async end(): Promise<void> {
    for (const who of WHO) {
      if (this.#places[who].isAway) await this.move({ who, deed: 'reconnects' });
      if (this.#places[who].machine === 'suspended') await this.move({ who, deed: 'resumes' });
      const { device } = this.#sides[who];
      if (this.#places[who].machine === 'runs') {
        await this.#expectKept(this.#sides[who]);
        await device.stop();
      }
      if ((await device.settle()) === 'saved') continue;
      await device.continue(who === 'a' ? 'here' : 'both');
      this.#isOnTwo ||= who === 'b';
      if ((await device.settle()) !== 'saved') throw new Error(`${who} is apart again`);
    }
    await this.#judge();
  }

  async #judge(): Promise<void> {
    const histories = await this.#world.histories();
    if (histories.length !== (this.#isOnTwo ? 2 : 1)) throw new Error(`there are ${histories.length} subscriptions`);
    for (const { devices, snapshots } of histories) {
      const heads = snapshots.filter(({ isHead }) => isHead);
      const [head] = heads;
      if (head === undefined || heads.length > 1) throw new Error(`there are ${heads.length} heads`);
      if (snapshots.some(({ number }) => number > head.number)) throw new Error('the head is not the last one');
      if (!devices.some((who) => areSame(head.marks, this.#sides[who].marks)))
        throw new Error(`the head is ${head.marks.join()}, which no device of it has`);
    }
    for (const who of WHO) {
      const own = histories.filter(({ devices }) => devices.includes(who));
      this.#expectSaved(this.#sides[who].marks, own);
    }
    for (const marks of this.#owed) this.#expectSaved(marks, histories);
  }

  #expectSaved(marks: Marks, histories: readonly History[]): void {
    const all = histories.flatMap(({ snapshots }) => snapshots);
    if (all.some((snapshot) => areSame(snapshot.marks, marks))) return;
    const there = all.map(({ number, marks: each }) => `${number}: ${each.join()}`).join('; ');
    throw new Error(`${marks.join()} is in no snapshot; there are ${there}`);
  }
}

/** Errors: an Error that says what does not hold, and after which move. */
export const liveThrough = async (world: OrderWorld, order: Order): Promise<void> => {
  const life = new Life(world);
  let at = 'the end';
  try {
    for (const move of order) {
      at = wordsOf([move]);
      await life.move(move);
    }
    at = 'the end';
    await life.end();
  } catch (error) {
    throw new Error(`${wordsOf(order)}: at ${at}: ${error instanceof Error ? error.message : String(error)}`, {
      cause: error,
    });
  }
};
