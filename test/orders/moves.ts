/**
 * The small model of two transceivers with one subscription: where each of them is, who has the lease, and which moves can come next. Both
 * begin stopped, connected, with the same snapshot, and nobody has the lease. `ordersOf` gives every order of so many moves. The model says
 * what is possible and when a start is refused; what must hold of the bytes is in live-through.ts.
 */
/** Of each order with real guests; over disks in memory there may be more. */
export const MOVES_WITH_GUESTS = 4;

export const WHO = ['a', 'b'] as const;
export type Who = (typeof WHO)[number];
/** `steals`: starts with `--take-over`, or, where it runs and was overtaken, continues here. */
export const DEEDS = ['starts', 'steals', 'suspends', 'resumes', 'disconnects', 'reconnects'] as const;
export type Deed = (typeof DEEDS)[number];
export type Move = { readonly who: Who; readonly deed: Deed };
export type Order = readonly Move[];

export type Place = { readonly machine: 'off' | 'runs' | 'suspended'; readonly isAway: boolean };
export type Places = { readonly a: Place; readonly b: Place; /** Of the lease. */ readonly holder: Who | null };

const AT_REST: Place = { machine: 'off', isAway: false };
export const BEGINNING: Places = { a: AT_REST, b: AT_REST, holder: null };

const otherOf = (who: Who): Who => (who === 'a' ? 'b' : 'a');

/** A start that is not a steal, while the other one has the lease: refused, and nothing has changed. */
export const isRefused = (places: Places, { who, deed }: Move): boolean =>
  deed === 'starts' && !places[who].isAway && places.holder === otherOf(who);

/** Where everything is after it; undefined: it cannot be done there. */
export const placesAfter = (places: Places, move: Move): Places | undefined => {
  const { who, deed } = move;
  const { machine, isAway } = places[who];
  const to = (place: Partial<Place>, holder = places.holder): Places => ({
    ...places,
    [who]: { machine, isAway, ...place },
    holder,
  });
  switch (deed) {
    case 'starts':
      if (machine !== 'off') return undefined;
      if (isRefused(places, move)) return places;
      return to({ machine: 'runs' }, isAway ? places.holder : who);
    case 'steals':
      if (isAway || machine === 'suspended' || places.holder !== otherOf(who)) return undefined;
      return to({ machine: 'runs' }, who);
    case 'suspends':
      return machine === 'runs' ? to({ machine: 'suspended' }) : undefined;
    case 'resumes':
      return machine === 'suspended' ? to({ machine: 'runs' }) : undefined;
    case 'disconnects':
      return isAway ? undefined : to({ isAway: true });
    case 'reconnects':
      if (!isAway) return undefined;
      // What it wrote goes to the repository now, and takes the lease that nobody has.
      return to({ isAway: false }, machine === 'off' ? places.holder : (places.holder ?? who));
    default:
      return deed satisfies never;
  }
};

const MOVES: readonly Move[] = WHO.flatMap((who) => DEEDS.map((deed) => ({ who, deed })));

/** Every order of `length` moves; a start that was refused is not repeated at once. */
export const ordersOf = (length: number): readonly Order[] => {
  let orders: readonly { readonly moves: Order; readonly places: Places }[] = [{ moves: [], places: BEGINNING }];
  for (let count = 0; count < length; count += 1)
    orders = orders.flatMap(({ moves, places }) =>
      MOVES.flatMap((move) => {
        const next = placesAfter(places, move);
        if (next === undefined || (next === places && moves.at(-1) === move)) return [];
        return [{ moves: [...moves, move], places: next }];
      }),
    );
  return orders.map(({ moves }) => moves);
};

export const wordsOf = (order: Order): string => order.map(({ who, deed }) => `${who} ${deed}`).join(', ');
