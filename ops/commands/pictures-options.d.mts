/** Of `args`, else of this process. */
export function readOptions(args?: readonly string[]): {
  /** names of the pictures to take */
  only: ReadonlySet<string>
  /** folder of the pictures */
  out: string
}
