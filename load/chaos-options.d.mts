/** Most seconds that a fault lasts. A run with this much time for faults has one, whatever its seed. */
export const LONGEST_FAULT_S: number

/** Of `args`, else of this process. Refuses a run that is too short for a fault. */
export function readOptions(args?: readonly string[]): {
  seed: number
  /** seconds of load */
  seconds: number
  rate: number
  /** seconds of load before the first fault and after the last */
  calm_s: readonly [number, number]
  /** false: faults after which every process and connection is still there; absent: all */
  kills?: false
  guards: boolean
  without: string | undefined
  out: string | undefined
  picture: string | undefined
  refuse(message: string): never
}
