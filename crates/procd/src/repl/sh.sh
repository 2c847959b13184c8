__sandbar_status=0
__sandbar_set() { return "$1"; }
# `command`: an error of the code must not end the shell. In a function, because the trap must end the loops of the
# code and not the one below.
__sandbar_eval() { command eval "$__sandbar_code" 3<&- 4>&-; }
__sandbar_busy=
trap '[ "$__sandbar_busy" ] && break 999 2>/dev/null' INT
while read -r __sandbar_lines <&3; do
  __sandbar_code=
  while [ "$__sandbar_lines" -gt 0 ]; do
    IFS= read -r __sandbar_line <&3
    __sandbar_code="$__sandbar_code$__sandbar_line
"
    __sandbar_lines=$((__sandbar_lines - 1))
  done
  __sandbar_busy=1
  __sandbar_set "$__sandbar_status"
  __sandbar_eval
  __sandbar_status=$?
  __sandbar_busy=
  printf . >&4
done
