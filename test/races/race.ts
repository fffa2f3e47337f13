/** The type of a race, which is one row of the table. */
import type { Answer } from '../support/api-client.ts'
import type { Environment } from './environment.ts'
import type { Scarce, Scarcity, ScarcityName } from './scarcities.ts'

/** The assertions of a race: tap's `t`, or the recorder of guards.ts. */
export interface Check {
  ok(found: unknown, message: string): unknown
  notOk(found: unknown, message: string): unknown
  equal(found: unknown, wanted: unknown, message: string): unknown
  same(found: unknown, wanted: unknown, message: string): unknown
}

export interface Scene {
  check: Check
  environment: Environment
  scarcity: Scarcity
  /** cases of this race that run at once */
  among: number
  make(n: number, options?: { limit?: number }): Promise<Scarce>
}

export interface Race {
  /** number in the list of races that reached production in other projects */
  id: number
  /** the public issues that describe the race */
  from: string
  name: string
  /** scarcities to which the race does not apply, with the reason */
  not?: { [name in ScarcityName]?: string }
  /** reason why the race does not exist without locking */
  lockingOnly?: string
  /** runs after all other races, because its changes to the database would affect them */
  apart?: true
  run(scene: Scene): Promise<void>
}

export const times = <T>(n: number, body: (n: number) => Promise<T>): Promise<T[]> =>
  Promise.all(Array.from({ length: n }, (_, i) => body(i)))

export const word = ({ status, body }: Answer): string => `${status} ${body.code ?? body.status}`
/** Returns the id of the purchase or booking in the answer, also in a refusal. */
export const idOf = ({ body }: Answer): string => (body.purchase ?? body.booking ?? body).id
export const won = ({ status }: Answer): boolean => status === 200 || status === 201

/** Asserts that `wins` answers succeeded and that all others are the same refusal. */
export function shared(check: Check, answers: readonly Answer[], wins: number, refusal: string): void {
  const lost = answers.filter((answer) => !won(answer))
  check.equal(answers.length - lost.length, wins, `${wins} of ${answers.length} have it`)
  check.same([...new Set(lost.map(word))], wins < answers.length ? [refusal] : [], 'and the others are told so')
}
