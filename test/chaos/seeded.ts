/** Seeded random numbers: the same seed and name give the same draws on every machine. */
export interface Seeded {
  /** returns a number x with 0 <= x < 1 */
  next(): number
  /** returns a whole number, both ends included */
  whole(from: number, to: number): number
  chance(share: number): boolean
  pick<T>(list: readonly T[]): T
  shuffled<T>(list: readonly T[]): T[]
}

/**
 * Creates a generator. `name`: each user of a seed has a separate sequence, so that one that draws more often does not
 * change the others.
 */
export function seeded(seed: number, name: string): Seeded {
  let state = seed | 0
  for (const letter of name) state = Math.imul(state ^ letter.charCodeAt(0), 0x01000193)
  // mulberry32, by Tommy Ettinger: public domain.
  const next = () => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296
  }
  const whole = (from: number, to: number) => from + Math.floor(next() * (to - from + 1))
  return {
    next,
    whole,
    chance: (share) => next() < share,
    pick(list) {
      const one = list[whole(0, list.length - 1)]
      if (one === undefined) throw new Error('nothing to pick from')
      return one
    },
    shuffled(list) {
      const rest = [...list]
      return list.map(() => rest.splice(whole(0, rest.length - 1), 1)[0] as (typeof list)[number])
    },
  }
}
