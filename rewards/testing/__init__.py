"""x"""

from rewards.testing.episodes import play
from rewards.testing.exploits import example_task, exploit_table
