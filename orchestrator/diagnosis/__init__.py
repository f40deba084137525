"""From the lines of logs to what went wrong: rules as data, and what rules cannot say as code. No I/O."""
