shopt -s expand_aliases
__sandbar_status=0
__sandbar_set() { return "$1"; }
# In a sourced file a trap can return, which ends the code that runs and nothing else.
trap 'return 130 2>/dev/null' INT
while IFS= read -r -d '' -u 3 __sandbar_code; do
  __sandbar_set "$__sandbar_status"
  . /dev/fd/5 5<<<'eval "$__sandbar_code" 3<&- 4>&- 5<&-'
  __sandbar_status=$?
  printf . >&4
done
