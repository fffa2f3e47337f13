/** What a race is: a line of the table. */
import type { Answer } from '../support/api-client.ts'
import type { Environment } from './environment.ts'
import type { Scarce, Scarcity, ScarcityName } from './scarcities.ts'

/** What a race asserts with: tap's t, or the recorder of the proof that the race can be lost. */
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
  /** number in the list of races that reached production elsewhere */
  id: number
  /** the public issues that it comes from */
  from: string
  name: string
  /** scarcities that it does not apply to, with the reason */
  not?: { [name in ScarcityName]?: string }
  /** why there is no such race without locking */
  lockingOnly?: string
  /** what it does to the database would show in others: it runs when they are over */
  apart?: true
  run(scene: Scene): Promise<void>
}

export const times = <T>(n: number, body: (n: number) => Promise<T>): Promise<T[]> =>
  Promise.all(Array.from({ length: n }, (_, i) => body(i)))

export const word = ({ status, body }: Answer): string => `${status} ${body.code ?? body.status}`
/** Of the purchase or booking that the answer is about, also when it was refused. */
export const idOf = ({ body }: Answer): string => (body.purchase ?? body.booking ?? body).id
export const won = ({ status }: Answer): boolean => status === 200 || status === 201

/** So many got it, and everybody else was told the same. */
export function shared(check: Check, answers: readonly Answer[], wins: number, refusal: string): void {
  const lost = answers.filter((answer) => !won(answer))
  check.equal(answers.length - lost.length, wins, `${wins} of ${answers.length} have it`)
  check.same([...new Set(lost.map(word))], wins < answers.length ? [refusal] : [], 'and the others are told so')
}
